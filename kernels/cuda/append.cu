// New keys and values into pages, a thread to 16 bytes of a page.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct AppendLaunch {
  const AppendRun* runs;
  const std::byte* k;
  const std::byte* v;
  uint64_t k_stride;
  uint64_t v_stride;
  int64_t page_bytes;
  int head_dim;
  int width;  // kv_heads * head_dim
};

// Block (run, row of the run, b): elements [kThreads * Kv::kCount * b, ...) of the row's keys and then its values.
template <typename Kv>
__global__ void __launch_bounds__(kThreads) append_rows(AppendLaunch a) {
  constexpr int kElementBytes = 16 / Kv::kCount;
  const AppendRun run = a.runs[blockIdx.x];
  const int row = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.z * kThreads + threadIdx.x) * Kv::kCount;
  if (row >= run.count || at >= 2 * a.width) return;
  const bool value = at >= a.width;
  const int element = value ? at - a.width : at;
  const int head = element / a.head_dim;
  const int64_t token = run.first_token + row;
  const std::byte* rows = value ? a.v + (run.first_row + row) * a.v_stride : a.k + (run.first_row + row) * a.k_stride;
  const float* from = reinterpret_cast<const float*>(rows) + element;
  std::byte* to = run.page_row + head * a.page_bytes + (value ? a.page_bytes / 2 : 0) +
                  (token * a.head_dim + element % a.head_dim) * kElementBytes;
  float values[Kv::kCount];
#pragma unroll
  for (int i = 0; i < Kv::kCount; i++) values[i] = from[i];
  store_words(to, Kv::pack(values));
}

template <typename Kv>
cudaError_t launch_format(cudaStream_t stream, const AppendLaunch& a, int runs, int rows) {
  const dim3 grid(static_cast<uint32_t>(runs), static_cast<uint32_t>(rows),
                  static_cast<uint32_t>(ceil_div(2 * a.width / Kv::kCount, kThreads)));
  return launch(append_rows<Kv>, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace

cudaError_t launch_append(cudaStream_t stream, const CudaAppend& args) {
  const KvFormat& format = args.format;
  const int width = format.kv_heads * format.head_dim;
  SPILLWAY_CHECK(args.k.dtype == DType::f32 && args.v.dtype == DType::f32 && args.k.rows == args.v.rows);
  SPILLWAY_CHECK(args.k.cols == width && args.v.cols == width && args.rows <= kPageTokens);
  if (args.runs_count == 0 || args.rows == 0) return cudaSuccess;
  if (format.head_dim % 8 != 0) return cudaErrorNotSupported;
  const AppendLaunch a = {.runs = args.runs,
                          .k = args.k.data,
                          .v = args.v.data,
                          .k_stride = args.k.stride,
                          .v_stride = args.v.stride,
                          .page_bytes = static_cast<int64_t>(format.page_bytes()),
                          .head_dim = format.head_dim,
                          .width = width};
  switch (format.dtype) {
    case DType::f16:
      return launch_format<ElementsF16>(stream, a, args.runs_count, args.rows);
    case DType::bf16:
      return launch_format<ElementsBf16>(stream, a, args.runs_count, args.rows);
    case DType::f32:
      return launch_format<ElementsF32>(stream, a, args.runs_count, args.rows);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
