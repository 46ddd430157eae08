// Activation functions, alone or gated (SwiGLU, GeGLU, arXiv 2002.05202), a thread to four elements. Where a product
// reads the rows next, they are quantised for it on the way.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct ActivateRows {
  const std::byte* gate;
  const std::byte* up;  // null: not gated
  std::byte* out;
  uint64_t gate_stride;
  uint64_t up_stride;
  uint64_t out_stride;
  int cols;
  CodesOfRows codes;
};

// Block (row, b): elements [4 * kThreads * b, ...) of the row. Not through the read-only cache: out may be gate or up.
template <Activation kKind, bool kAligned>
__global__ void __launch_bounds__(kThreads) activate_rows(ActivateRows rows) {
  const int first = 4 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const float* gate = reinterpret_cast<const float*>(rows.gate + blockIdx.x * rows.gate_stride) + first;
  const float* up = reinterpret_cast<const float*>(rows.up + blockIdx.x * rows.up_stride) + first;
  float* out = reinterpret_cast<float*>(rows.out + blockIdx.x * rows.out_stride) + first;
  const bool gated = rows.up != nullptr;
  float4 y = {0.0f, 0.0f, 0.0f, 0.0f};
  if (kAligned && first + 4 <= rows.cols) {
    const float4 g = *reinterpret_cast<const float4*>(gate);
    float4 u = {1.0f, 1.0f, 1.0f, 1.0f};
    if (gated) u = *reinterpret_cast<const float4*>(up);
    y = {activated<kKind>(g.x) * u.x, activated<kKind>(g.y) * u.y, activated<kKind>(g.z) * u.z,
         activated<kKind>(g.w) * u.w};
    store_floats(out, y);
  } else {
    const auto element = [&](int i) {
      if (first + i >= rows.cols) return 0.0f;
      return out[i] = activated<kKind>(gate[i]) * (gated ? up[i] : 1.0f);
    };
    y.x = element(0);
    y.y = element(1);
    y.z = element(2);
    y.w = element(3);
  }
  if (rows.codes.codes != nullptr) rows.codes.write_four(static_cast<int>(blockIdx.x), first, y);
}

template <Activation kKind>
cudaError_t launch_kind(cudaStream_t stream, const ActivateRows& rows, int64_t count, bool aligned) {
  const dim3 grid(static_cast<uint32_t>(count), static_cast<uint32_t>(ceil_div(rows.cols, 4 * kThreads)));
  return launch(aligned ? activate_rows<kKind, true> : activate_rows<kKind, false>, grid, dim3(kThreads), 0, stream,
                rows);
}

}  // namespace

cudaError_t launch_activate(cudaStream_t stream, const CudaActivate& a) {
  const bool gated = a.up.rows > 0 || a.up.data != nullptr;
  SPILLWAY_CHECK(a.gate.dtype == DType::f32 && a.out.dtype == DType::f32);
  SPILLWAY_CHECK(!gated || (a.up.dtype == DType::f32 && a.up.rows == a.gate.rows && a.up.cols == a.gate.cols));
  SPILLWAY_CHECK(a.out.rows == a.gate.rows && a.out.cols == a.gate.cols);
  SPILLWAY_CHECK(a.codes == nullptr || a.out.cols % kBlockElements == 0);
  if (a.gate.rows == 0 || a.gate.cols == 0) return cudaSuccess;
  const ActivateRows rows = {.gate = a.gate.data,
                             .up = gated ? a.up.data : nullptr,
                             .out = a.out.data,
                             .gate_stride = a.gate.stride,
                             .up_stride = gated ? a.up.stride : 0,
                             .out_stride = a.out.stride,
                             .cols = static_cast<int>(a.gate.cols),
                             .codes = CodesOfRows::in(a.codes, a.out)};
  const bool aligned = aligned16(a.gate) && (!gated || aligned16(a.up)) && aligned16(a.out);
  switch (a.kind) {
    case Activation::silu:
      return launch_kind<Activation::silu>(stream, rows, a.gate.rows, aligned);
    case Activation::gelu:
      return launch_kind<Activation::gelu>(stream, rows, a.gate.rows, aligned);
    case Activation::relu:
      return launch_kind<Activation::relu>(stream, rows, a.gate.rows, aligned);
  }
  return cudaErrorNotSupported;
}

}  // namespace spillway::cuda
