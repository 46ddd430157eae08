// Rows of any type to floats, a thread to an element: embedding rows as tokens ask for them. Large matrices are
// multiplied without ever being dequantised in memory.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/super_blocks.h"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;

struct DequantizeRows {
  const std::byte* rows;
  std::byte* out;
  uint64_t rows_stride;
  uint64_t out_stride;
  int cols;
};

// What one block of a type holds, or one element where there are no blocks.
template <typename Block>
__device__ __forceinline__ float element_of(const std::byte* row, int i) {
  return block_element(reinterpret_cast<const Block*>(row)[i / Block::kElements], i % Block::kElements);
}
template <>
__device__ __forceinline__ float element_of<ElementsF32>(const std::byte* row, int i) {
  return reinterpret_cast<const float*>(row)[i];
}
template <>
__device__ __forceinline__ float element_of<ElementsF16>(const std::byte* row, int i) {
  return f16_to_f32(reinterpret_cast<const uint16_t*>(row)[i]);
}
template <>
__device__ __forceinline__ float element_of<ElementsBf16>(const std::byte* row, int i) {
  return bf16_to_f32(reinterpret_cast<const uint16_t*>(row)[i]);
}

// Block (row, b): elements [kThreads * b, ...) of the row.
template <typename Type>
__global__ void __launch_bounds__(kThreads) dequantize_rows(DequantizeRows rows) {
  const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (i >= rows.cols) return;
  float* out = reinterpret_cast<float*>(rows.out + blockIdx.x * rows.out_stride);
  out[i] = element_of<Type>(rows.rows + blockIdx.x * rows.rows_stride, i);
}

}  // namespace

cudaError_t launch_dequantize(cudaStream_t stream, const CudaDequantize& a) {
  SPILLWAY_CHECK(a.out.dtype == DType::f32 && a.out.rows == a.rows.rows && a.out.cols == a.rows.cols);
  SPILLWAY_CHECK(a.rows.cols % info(a.rows.dtype).block_elements == 0);
  if (a.rows.rows == 0 || a.rows.cols == 0) return cudaSuccess;
  const DequantizeRows rows = {.rows = a.rows.data,
                               .out = a.out.data,
                               .rows_stride = a.rows.stride,
                               .out_stride = a.out.stride,
                               .cols = static_cast<int>(a.rows.cols)};
  const dim3 grid(static_cast<uint32_t>(a.rows.rows), static_cast<uint32_t>(ceil_div(rows.cols, kThreads)));
  const auto run = [&](void (*kernel)(DequantizeRows)) {
    return launch(kernel, grid, dim3(kThreads), 0, stream, rows);
  };
  if (is_quantised(a.rows.dtype)) {
    return with_block_type(a.rows.dtype, [&]<typename Block>(Block) { return run(dequantize_rows<Block>); });
  }
  switch (a.rows.dtype) {
    case DType::f32:
      return run(dequantize_rows<ElementsF32>);
    case DType::f16:
      return run(dequantize_rows<ElementsF16>);
    case DType::bf16:
      return run(dequantize_rows<ElementsBf16>);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
