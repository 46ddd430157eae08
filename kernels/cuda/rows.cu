// What is done to each element of a row: a bias or another row added, a factor.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kElements = 4;  // of a thread

struct AddRows {
  std::byte* x;
  const std::byte* y;
  uint64_t x_stride;
  uint64_t y_stride;  // 0: one row for all
  int cols;
};

// Block (row, b): elements [kElements * kThreads * b, ...) of the row, neighbours by neighbouring threads.
__global__ void __launch_bounds__(kThreads) add_rows(AddRows rows) {
  float* x = reinterpret_cast<float*>(rows.x + blockIdx.x * rows.x_stride);
  const float* y = reinterpret_cast<const float*>(rows.y + blockIdx.x * rows.y_stride);
  const int first = static_cast<int>(blockIdx.y * kElements * kThreads + threadIdx.x);
#pragma unroll
  for (int e = 0; e < kElements; e++) {
    const int i = first + e * kThreads;
    if (i < rows.cols) x[i] += y[i];
  }
}

__global__ void __launch_bounds__(kThreads) scale_rows(std::byte* data, uint64_t stride, int cols, float factor) {
  float* x = reinterpret_cast<float*>(data + blockIdx.x * stride);
  const int first = static_cast<int>(blockIdx.y * kElements * kThreads + threadIdx.x);
#pragma unroll
  for (int e = 0; e < kElements; e++) {
    const int i = first + e * kThreads;
    if (i < cols) x[i] *= factor;
  }
}

dim3 grid_of(const View& x) {
  return dim3(static_cast<uint32_t>(x.rows),
              static_cast<uint32_t>(ceil_div(static_cast<int>(x.cols), kElements * kThreads)));
}

}  // namespace

cudaError_t launch_add(cudaStream_t stream, const CudaAdd& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.y.dtype == DType::f32 && a.y.cols == a.x.cols);
  SPILLWAY_CHECK(a.y.rows == a.x.rows || a.y.rows == 1);
  if (a.x.rows == 0 || a.x.cols == 0) return cudaSuccess;
  const AddRows rows = {.x = a.x.data,
                        .y = a.y.data,
                        .x_stride = a.x.stride,
                        .y_stride = a.y.rows == 1 ? 0 : a.y.stride,
                        .cols = static_cast<int>(a.x.cols)};
  return launch(add_rows, grid_of(a.x), dim3(kThreads), 0, stream, rows);
}

cudaError_t launch_scale(cudaStream_t stream, const CudaScale& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32);
  if (a.x.rows == 0 || a.x.cols == 0) return cudaSuccess;
  return launch(scale_rows, grid_of(a.x), dim3(kThreads), 0, stream, a.x.data, a.x.stride, static_cast<int>(a.x.cols),
                a.factor);
}

}  // namespace spillway::cuda
