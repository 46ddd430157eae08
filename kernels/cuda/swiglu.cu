// SwiGLU (arXiv 2002.05202), a thread to four elements.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct SwigluRows {
  const std::byte* gate;
  const std::byte* up;
  std::byte* out;
  uint64_t gate_stride;
  uint64_t up_stride;
  uint64_t out_stride;
  int cols;
};

// Block (row, b): elements [4 * kThreads * b, ...) of the row. Not through the read-only cache: out may be gate or up.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads) swiglu_rows(SwigluRows rows) {
  const int first = 4 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const float* gate = reinterpret_cast<const float*>(rows.gate + blockIdx.x * rows.gate_stride) + first;
  const float* up = reinterpret_cast<const float*>(rows.up + blockIdx.x * rows.up_stride) + first;
  float* out = reinterpret_cast<float*>(rows.out + blockIdx.x * rows.out_stride) + first;
  if (kAligned && first + 4 <= rows.cols) {
    const float4 g = *reinterpret_cast<const float4*>(gate);
    const float4 u = *reinterpret_cast<const float4*>(up);
    store_floats(out, {silu(g.x) * u.x, silu(g.y) * u.y, silu(g.z) * u.z, silu(g.w) * u.w});
    return;
  }
  for (int i = 0; i < 4 && first + i < rows.cols; i++) out[i] = silu(gate[i]) * up[i];
}

}  // namespace

cudaError_t launch_swiglu(cudaStream_t stream, const CudaSwiglu& a) {
  SPILLWAY_CHECK(a.gate.dtype == DType::f32 && a.up.dtype == DType::f32 && a.out.dtype == DType::f32);
  SPILLWAY_CHECK(a.up.rows == a.gate.rows && a.up.cols == a.gate.cols);
  SPILLWAY_CHECK(a.out.rows == a.gate.rows && a.out.cols == a.gate.cols);
  if (a.gate.rows == 0 || a.gate.cols == 0) return cudaSuccess;
  const SwigluRows rows = {.gate = a.gate.data,
                           .up = a.up.data,
                           .out = a.out.data,
                           .gate_stride = a.gate.stride,
                           .up_stride = a.up.stride,
                           .out_stride = a.out.stride,
                           .cols = static_cast<int>(a.gate.cols)};
  const bool aligned = aligned16(a.gate) && aligned16(a.up) && aligned16(a.out);
  const dim3 grid(static_cast<uint32_t>(a.gate.rows), static_cast<uint32_t>(ceil_div(rows.cols, 4 * kThreads)));
  return launch(aligned ? swiglu_rows<true> : swiglu_rows<false>, grid, dim3(kThreads), 0, stream, rows);
}

}  // namespace spillway::cuda
