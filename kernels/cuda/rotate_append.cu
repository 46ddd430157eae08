// Rotation of queries and keys (arXiv 2104.09864) and the writing of keys and values into pages, in one launch: a
// thread to a pair of a query, or to 16 bytes of a page. The bits are those of rotate and append, one after the other.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct RotateAppendLaunch {
  const AppendRun* runs;
  std::byte* q;
  const std::byte* k;
  const std::byte* v;
  const std::byte* table;
  uint64_t q_stride;
  uint64_t k_stride;
  uint64_t v_stride;
  uint64_t table_stride;
  int64_t page_bytes;
  int head_dim;
  int heads;
  int kv_heads;
  int pairs;
  bool halves;
};

// table: cos and sin of pair 0, of pair 1, ...
__device__ __forceinline__ float first_turned(float a, float b, const float* table, int pair) {
  return a * table[2 * pair] - b * table[2 * pair + 1];
}
__device__ __forceinline__ float second_turned(float a, float b, const float* table, int pair) {
  return a * table[2 * pair + 1] + b * table[2 * pair];
}

__device__ __forceinline__ void turn_pair(float* head, const float* table, int pair, int pairs, bool halves) {
  const int first = halves ? pair : 2 * pair;
  const int second = halves ? pair + pairs : 2 * pair + 1;
  const float a = head[first];
  const float b = head[second];
  head[first] = first_turned(a, b, table, pair);
  head[second] = second_turned(a, b, table, pair);
}

// Element i of a head, turned.
__device__ __forceinline__ float turned(const float* head, const float* table, int i, int pairs, bool halves) {
  if (i >= 2 * pairs) return head[i];
  if (halves) {
    return i < pairs ? first_turned(head[i], head[i + pairs], table, i)
                     : second_turned(head[i - pairs], head[i], table, i - pairs);
  }
  return i % 2 == 0 ? first_turned(head[i], head[i + 1], table, i / 2)
                    : second_turned(head[i - 1], head[i], table, i / 2);
}

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

}  // namespace

cudaError_t launch_rotate_append(cudaStream_t stream, const CudaRotateAppend& args) {
  const KvFormat& format = args.format;
  const int64_t width = static_cast<int64_t>(format.kv_heads) * format.head_dim;
  SPILLWAY_CHECK(args.q.dtype == DType::f32 && args.k.dtype == DType::f32 && args.v.dtype == DType::f32);
  SPILLWAY_CHECK(args.table.dtype == DType::f32 && args.table.rows == args.q.rows);
  SPILLWAY_CHECK(args.table.cols % 2 == 0 && args.table.cols <= format.head_dim);
  SPILLWAY_CHECK(args.q.cols % format.head_dim == 0 && args.k.cols == width && args.v.cols == width);
  SPILLWAY_CHECK(args.k.rows == args.q.rows && args.v.rows == args.q.rows && args.rows <= kPageTokens);
  if (args.runs_count == 0 || args.rows == 0) return cudaSuccess;
  if (format.head_dim % 8 != 0) return cudaErrorNotSupported;
  const RotateAppendLaunch a = {.runs = args.runs,
                                .q = args.q.data,
                                .k = args.k.data,
                                .v = args.v.data,
                                .table = args.table.data,
                                .q_stride = args.q.stride,
                                .k_stride = args.k.stride,
                                .v_stride = args.v.stride,
                                .table_stride = args.table.stride,
                                .page_bytes = static_cast<int64_t>(format.page_bytes()),
                                .head_dim = format.head_dim,
                                .heads = static_cast<int>(args.q.cols / format.head_dim),
                                .kv_heads = format.kv_heads,
                                .pairs = static_cast<int>(args.table.cols / 2),
                                .halves = args.style == RotationStyle::halves};
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
