// Layer norm (arXiv 1607.06450), a block of threads to a row. The variance is that of the differences from the mean:
// two passes over the row, which the cache holds.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;

struct LayerNormRows {
  const std::byte* x;
  const float* weight;
  const float* bias;
  std::byte* out;
  uint64_t x_stride;
  uint64_t out_stride;
  int cols;
  float eps;
};

__global__ void __launch_bounds__(kThreads) layer_norm_rows(LayerNormRows rows) {
  SPILLWAY_SHARED(float, sums, kWarps);
  SPILLWAY_SHARED(float, squares, kWarps);
  const float* x = reinterpret_cast<const float*>(rows.x + blockIdx.x * rows.x_stride);
  float* out = reinterpret_cast<float*>(rows.out + blockIdx.x * rows.out_stride);
  const int first = static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  for (int i = first; i < rows.cols; i += kThreads) sum += x[i];
  const float mean = block_sum<kWarps>(sum, sums) / static_cast<float>(rows.cols);
  float square = 0.0f;
  for (int i = first; i < rows.cols; i += kThreads) square = fmaf(x[i] - mean, x[i] - mean, square);
  const float variance = block_sum<kWarps>(square, squares) / static_cast<float>(rows.cols);
  const float inverse = 1.0f / sqrtf(variance + rows.eps);
  for (int i = first; i < rows.cols; i += kThreads) {
    out[i] = fmaf((x[i] - mean) * inverse, rows.weight[i], rows.bias[i]);
  }
}

}  // namespace

cudaError_t launch_layer_norm(cudaStream_t stream, const CudaLayerNorm& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.out.dtype == DType::f32);
  SPILLWAY_CHECK(a.weight.dtype == DType::f32 && a.weight.cols == a.x.cols);
  SPILLWAY_CHECK(a.bias.dtype == DType::f32 && a.bias.cols == a.x.cols);
  SPILLWAY_CHECK(a.out.cols == a.x.cols && a.out.rows == a.x.rows);
  if (a.x.rows == 0 || a.x.cols == 0) return cudaSuccess;
  const LayerNormRows rows = {.x = a.x.data,
                              .weight = a.weight.f32(),
                              .bias = a.bias.f32(),
                              .out = a.out.data,
                              .x_stride = a.x.stride,
                              .out_stride = a.out.stride,
                              .cols = static_cast<int>(a.x.cols),
                              .eps = a.eps};
  return launch(layer_norm_rows, dim3(static_cast<uint32_t>(a.x.rows)), dim3(kThreads), 0, stream, rows);
}

}  // namespace spillway::cuda
