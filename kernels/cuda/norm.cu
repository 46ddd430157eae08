// RMS norm, a block of threads to a row. Each thread sums every 256th group of four elements, then lanes, then warps.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;

struct NormRows {
  const std::byte* x;
  const float* weight;
  std::byte* out;
  uint64_t x_stride;
  uint64_t out_stride;
  int cols;
  float eps;
};

// Elements [first, first + 4) of a row, zero past its end. Not through the read-only cache: out may be x.
template <bool kAligned>
__device__ __forceinline__ float4 load_four(const float* row, int first, int cols) {
  if (kAligned && first + 4 <= cols) return *reinterpret_cast<const float4*>(row + first);
  return {first < cols ? row[first] : 0.0f, first + 1 < cols ? row[first + 1] : 0.0f,
          first + 2 < cols ? row[first + 2] : 0.0f, first + 3 < cols ? row[first + 3] : 0.0f};
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) norm_rows(NormRows rows) {
  SPILLWAY_SHARED(float, warp_sums, kWarps);
  const float* x = reinterpret_cast<const float*>(rows.x + blockIdx.x * rows.x_stride);
  float* out = reinterpret_cast<float*>(rows.out + blockIdx.x * rows.out_stride);
  float sum = 0.0f;
  for (int i = 4 * static_cast<int>(threadIdx.x); i < rows.cols; i += 4 * kThreads) {
    const float4 v = load_four<kAligned>(x, i, rows.cols);
    sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
  }
  const float total = block_sum<kWarps>(sum, warp_sums);
  const float inverse = 1.0f / sqrtf(total / static_cast<float>(rows.cols) + rows.eps);
  for (int i = 4 * static_cast<int>(threadIdx.x); i < rows.cols; i += 4 * kThreads) {
    const float4 v = load_four<kAligned>(x, i, rows.cols);
    const float4 w = load_four<kAligned>(rows.weight, i, rows.cols);
    const float4 y = {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w};
    if (kAligned && i + 4 <= rows.cols) {
      store_floats(out + i, y);
    } else {
      out[i] = y.x;
      if (i + 1 < rows.cols) out[i + 1] = y.y;
      if (i + 2 < rows.cols) out[i + 2] = y.z;
      if (i + 3 < rows.cols) out[i + 3] = y.w;
    }
  }
}

}  // namespace

cudaError_t launch_norm(cudaStream_t stream, const CudaNorm& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.weight.dtype == DType::f32 && a.out.dtype == DType::f32);
  SPILLWAY_CHECK(a.weight.cols == a.x.cols && a.out.cols == a.x.cols && a.out.rows == a.x.rows);
  if (a.x.rows == 0 || a.x.cols == 0) return cudaSuccess;
  const NormRows rows = {.x = a.x.data,
                         .weight = a.weight.f32(),
                         .out = a.out.data,
                         .x_stride = a.x.stride,
                         .out_stride = a.out.stride,
                         .cols = static_cast<int>(a.x.cols),
                         .eps = a.eps};
  const bool aligned = aligned16(a.x) && aligned16(a.weight) && aligned16(a.out);
  return launch(aligned ? norm_rows<true> : norm_rows<false>, dim3(static_cast<uint32_t>(a.x.rows)), dim3(kThreads), 0,
                stream, rows);
}

}  // namespace spillway::cuda
