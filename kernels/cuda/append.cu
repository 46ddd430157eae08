// New keys and values into pages, and before that the rotation of queries and keys (arXiv 2104.09864), in one launch: a
// thread to a pair of a query, or to 16 bytes of a page. What is not to be rotated has no pairs and brings no queries.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct RotateAppendLaunch {
  const AppendRun* runs = nullptr;
  std::byte* q = nullptr;
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  const std::byte* table = nullptr;
  uint64_t q_stride = 0;
  uint64_t k_stride = 0;
  uint64_t v_stride = 0;
  uint64_t table_stride = 0;
  int64_t page_bytes = 0;
  int head_dim = 0;
  int heads = 0;
  int kv_heads = 0;
  int pairs = 0;
  bool halves = false;
};

// Block (run, row of the run, b): of the row, first the pairs of q, then the pieces of k and those of v.
template <typename Kv>
__global__ void __launch_bounds__(kThreads) rotate_append_rows(RotateAppendLaunch a) {
  constexpr int kElementBytes = 16 / Kv::kCount;
  const AppendRun run = a.runs[blockIdx.x];
  const int row_of_run = static_cast<int>(blockIdx.y);
  if (row_of_run >= run.count) return;
  const int64_t row = run.first_row + row_of_run;
  const float* table = reinterpret_cast<const float*>(a.table + row * a.table_stride);
  int index = static_cast<int>(blockIdx.z * kThreads + threadIdx.x);
  if (index < a.heads * a.pairs) {
    float* head = reinterpret_cast<float*>(a.q + row * a.q_stride) + index / a.pairs * a.head_dim;
    turn_pair(head, table, index % a.pairs, a.pairs, a.halves);
    return;
  }
  index -= a.heads * a.pairs;
  const int pieces = a.head_dim / Kv::kCount;  // of a head
  if (index >= 2 * a.kv_heads * pieces) return;
  const bool value = index >= a.kv_heads * pieces;
  const int head = index / pieces % a.kv_heads;
  const int first = index % pieces * Kv::kCount;
  const std::byte* rows = value ? a.v + row * a.v_stride : a.k + row * a.k_stride;
  const float* from = reinterpret_cast<const float*>(rows) + head * a.head_dim;
  float values[Kv::kCount];
#pragma unroll
  for (int i = 0; i < Kv::kCount; i++) {
    values[i] = value ? from[first + i] : turned(from, table, first + i, a.pairs, a.halves);
  }
  const int64_t token = run.first_token + row_of_run;
  store_words(run.page_row + head * a.page_bytes + (value ? a.page_bytes / 2 : 0) +
                  (token * a.head_dim + first) * kElementBytes,
              Kv::pack(values));
}

template <typename Kv>
cudaError_t launch_format(cudaStream_t stream, const RotateAppendLaunch& a, int runs, int rows) {
  const int items = a.heads * a.pairs + 2 * a.kv_heads * a.head_dim / Kv::kCount;
  const dim3 grid(static_cast<uint32_t>(runs), static_cast<uint32_t>(rows),
                  static_cast<uint32_t>(ceil_div(items, kThreads)));
  return launch(rotate_append_rows<Kv>, grid, dim3(kThreads), 0, stream, a);
}

cudaError_t launch_type(cudaStream_t stream, DType type, const RotateAppendLaunch& a, int runs, int rows) {
  if (a.head_dim % 8 != 0) return cudaErrorNotSupported;
  switch (type) {
    case DType::f16:
      return launch_format<ElementsF16>(stream, a, runs, rows);
    case DType::bf16:
      return launch_format<ElementsBf16>(stream, a, runs, rows);
    case DType::f32:
      return launch_format<ElementsF32>(stream, a, runs, rows);
    default:
      return cudaErrorNotSupported;
  }
}

// Without rotation.
template <typename Arguments>
RotateAppendLaunch of_keys_and_values(const Arguments& args) {
  const KvFormat& format = args.format;
  const int64_t width = static_cast<int64_t>(format.kv_heads) * format.head_dim;
  SPILLWAY_CHECK(args.k.dtype == DType::f32 && args.v.dtype == DType::f32 && args.k.rows == args.v.rows);
  SPILLWAY_CHECK(args.k.cols == width && args.v.cols == width && args.rows <= kPageTokens);
  return {.runs = args.runs,
          .k = args.k.data,
          .v = args.v.data,
          .k_stride = args.k.stride,
          .v_stride = args.v.stride,
          .page_bytes = static_cast<int64_t>(format.page_bytes()),
          .head_dim = format.head_dim,
          .kv_heads = format.kv_heads};
}

}  // namespace

cudaError_t launch_append(cudaStream_t stream, const CudaAppend& args) {
  const RotateAppendLaunch a = of_keys_and_values(args);
  if (args.runs_count == 0 || args.rows == 0) return cudaSuccess;
  return launch_type(stream, args.format.dtype, a, args.runs_count, args.rows);
}

cudaError_t launch_rotate_append(cudaStream_t stream, const CudaRotateAppend& args) {
  RotateAppendLaunch a = of_keys_and_values(args);
  SPILLWAY_CHECK(args.q.dtype == DType::f32 && args.q.rows == args.k.rows && args.q.cols % a.head_dim == 0);
  SPILLWAY_CHECK(args.table.dtype == DType::f32 && args.table.rows == args.q.rows);
  SPILLWAY_CHECK(args.table.cols % 2 == 0 && args.table.cols <= a.head_dim);
  if (args.runs_count == 0 || args.rows == 0) return cudaSuccess;
  a.q = args.q.data;
  a.q_stride = args.q.stride;
  a.table = args.table.data;
  a.table_stride = args.table.stride;
  a.heads = static_cast<int>(args.q.cols / a.head_dim);
  a.pairs = static_cast<int>(args.table.cols / 2);
  a.halves = args.style == RotationStyle::halves;
  return launch_type(stream, args.format.dtype, a, args.runs_count, args.rows);
}

}  // namespace spillway::cuda
