// RMS norm, a block of threads to a row. Each thread sums every 256th group of four elements, then lanes, then warps.
// Where a product reads the rows next, they are quantised for it on the way.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/quantize.cuh"

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
  CodesOfRows codes;
};

// Elements [first, first + 4) of a row, zero past its end. Not through the read-only cache: out may be x.
template <bool kAligned>
__device__ __forceinline__ float4 load_four(const float* row, int first, int cols) {
  if (kAligned && first + 4 <= cols) return *reinterpret_cast<const float4*>(row + first);
  return {first < cols ? row[first] : 0.0f, first + 1 < cols ? row[first + 1] : 0.0f,
          first + 2 < cols ? row[first + 2] : 0.0f, first + 3 < cols ? row[first + 3] : 0.0f};
}

template <bool kAligned>
__device__ __forceinline__ void store_four(float* row, int first, int cols, const float4& y) {
  if (kAligned && first + 4 <= cols) return store_floats(row + first, y);
  if (first < cols) row[first] = y.x;
  if (first + 1 < cols) row[first + 1] = y.y;
  if (first + 2 < cols) row[first + 2] = y.z;
  if (first + 3 < cols) row[first + 3] = y.w;
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
  for (int first = 0; first < rows.cols; first += 4 * kThreads) {  // whole warps: those that quantise do it together
    const int i = first + 4 * static_cast<int>(threadIdx.x);
    const float4 v = load_four<kAligned>(x, i, rows.cols);
    const float4 w = load_four<kAligned>(rows.weight, i, rows.cols);
    const float4 y = {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w};
    store_four<kAligned>(out, i, rows.cols, y);
    if (rows.codes.codes != nullptr) rows.codes.write_four(static_cast<int>(blockIdx.x), i, y);
  }
}

}  // namespace

cudaError_t launch_norm(cudaStream_t stream, const CudaNorm& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.weight.dtype == DType::f32 && a.out.dtype == DType::f32);
  SPILLWAY_CHECK(a.weight.cols == a.x.cols && a.out.cols == a.x.cols && a.out.rows == a.x.rows);
  SPILLWAY_CHECK(a.codes == nullptr || a.out.cols % kBlockElements == 0);
  if (a.x.rows == 0 || a.x.cols == 0) return cudaSuccess;
  const NormRows rows = {.x = a.x.data,
                         .weight = a.weight.f32(),
                         .out = a.out.data,
                         .x_stride = a.x.stride,
                         .out_stride = a.out.stride,
                         .cols = static_cast<int>(a.x.cols),
                         .eps = a.eps,
                         .codes = CodesOfRows::in(a.codes, a.out)};
  const bool aligned = aligned16(a.x) && aligned16(a.weight) && aligned16(a.out);
  return launch(aligned ? norm_rows<true> : norm_rows<false>, dim3(static_cast<uint32_t>(a.x.rows)), dim3(kThreads), 0,
                stream, rows);
}

}  // namespace spillway::cuda
