// Decode attention: one query row against one span, for a group of query heads that share a KV head (GQA, arXiv
// 2305.13245). The result is a partial softmax state (kernels/kv_span.h), to be merged with those of the other spans.
//
// A thread block takes one task and one KV head (and up to 8 of its query heads), a warp each page of the span. The
// lanes of a warp load K, then V, of consecutive tokens, 16 bytes each; every load serves all heads of the group. The
// order of additions is by tokens within a page, then by pages: nothing else enters into a result.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/packed_page.cuh"

namespace spillway::cuda {
namespace {

struct AttendLaunch {
  const SpanTask* tasks;
  const int32_t* there;  // how many tasks there are; null: as many as thread blocks
  const std::byte* q;
  std::byte* states;
  uint64_t q_stride;
  uint64_t states_stride;
  int64_t page_bytes;
  PackedPage packed;  // of packed page rows
  AttendSizes sizes;
};

// Calls visit(token, values) for this lane's tokens of [0, tokens rounded up), in order; those before `hidden`, absent
// tokens and absent elements are zero. `rows`: keys or values.
template <typename Kv, int kLanes, int kInFlight, typename Visit>
__device__ __forceinline__ void for_each_row(const std::byte* rows, const LanePlace<Kv, kLanes>& place, int hidden,
                                             int tokens, int head_dim, const Visit& visit) {
  constexpr int kTokens = kWarpLanes / kLanes;
  for (int first = 0; first < tokens; first += kTokens * kInFlight) {
    uint4 held[kInFlight][Kv::kSixteens];
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      const int token = first + i * kTokens + place.token;
      const bool there = token >= hidden && token < tokens && place.in_head;
      const std::byte* piece = rows + (static_cast<int64_t>(token) * head_dim + place.piece) * Kv::kElementBytes;
#pragma unroll
      for (int l = 0; l < Kv::kSixteens; l++) held[i][l] = there ? load_stream(piece + 16 * l) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      float values[Kv::kCount];
      Kv::unpack(held[i], values);
      visit(first + i * kTokens + place.token, values);
    }
  }
}

// The same of a packed page: codes are loaded together, and become the halves that they stand for.
template <typename Kv, int kLanes, int kInFlight, bool kPerChannel, typename Visit>
__device__ __forceinline__ void for_each_packed_token(const PackedPage& packed, const std::byte* page, bool value,
                                                      const LanePlace<Kv, kLanes>& place, int hidden, int tokens,
                                                      const Visit& visit) {
  constexpr int kTokens = kWarpLanes / kLanes;
  PieceScales<kPerChannel> scales[Kv::kSixteens];
  if constexpr (kPerChannel) {
#pragma unroll
    for (int l = 0; l < Kv::kSixteens; l++) {
      if (place.in_head) scales[l].load_channels(page, place.piece + 8 * l);
    }
  }
  for (int first = 0; first < tokens; first += kTokens * kInFlight) {
    PackedPiece<kPerChannel> held[kInFlight][Kv::kSixteens];
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      const int token = first + i * kTokens + place.token;
      const bool there = token >= hidden && token < tokens && place.in_head;
#pragma unroll
      for (int l = 0; l < Kv::kSixteens; l++) held[i][l].load(packed, page, token, value, place.piece + 8 * l, there);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; i++) {
      const int token = first + i * kTokens + place.token;
      const bool there = token >= hidden && token < tokens && place.in_head;
      uint4 halves[Kv::kSixteens];
#pragma unroll
      for (int l = 0; l < Kv::kSixteens; l++) {
        halves[l] = there ? held[i][l].halves(packed.bits, scales[l]) : uint4{0, 0, 0, 0};
      }
      float values[Kv::kCount];
      Kv::unpack(halves, values);
      visit(token, values);
    }
  }
}

// One head's page of a span's row. kPacks: whether there are packed pages at all.
template <bool kPacks>
struct PageOfHead {
  const std::byte* bytes;
  bool packed;
  int64_t page_bytes;
  const PackedPage& layout;
  int head_dim;

  template <typename Kv, int kLanes, int kHeads, typename Visit>
  __device__ __forceinline__ void for_each_token(bool value, const LanePlace<Kv, kLanes>& place, int hidden, int tokens,
                                                 const Visit& visit) const {
    constexpr int kInFlight = loads_in_flight(kHeads, Kv::kSixteens);
    if constexpr (kPacks) {
      if (packed && !value && layout.header_bytes > 0) {
        return for_each_packed_token<Kv, kLanes, kInFlight, true>(layout, bytes, value, place, hidden, tokens, visit);
      }
      if (packed) {
        return for_each_packed_token<Kv, kLanes, kInFlight, false>(layout, bytes, value, place, hidden, tokens, visit);
      }
    }
    for_each_row<Kv, kLanes, kInFlight>(bytes + (value ? page_bytes / 2 : 0), place, hidden, tokens, head_dim, visit);
  }
};

// Block (task, KV head, kHeads of its group).
template <typename Kv, int kLanes, int kHeads, bool kPacks>
__global__ void __launch_bounds__(kAttendThreads, 2) attend_span(AttendLaunch a) {
  if (a.there != nullptr && static_cast<int>(blockIdx.x) >= *a.there) return;
  const Shared<float> regions = dynamic_shared<float>(0, kAttendWarps * a.sizes.region);
  SPILLWAY_SHARED(float, max_of, kAttendWarps* kHeads);
  SPILLWAY_SHARED(float, sum_of, kAttendWarps* kHeads);
  const SpanTask& task = a.tasks[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int first_of_group = static_cast<int>(blockIdx.z) * kHeads;
  const int heads = a.sizes.group - first_of_group < kHeads ? a.sizes.group - first_of_group : kHeads;
  const int64_t head = static_cast<int64_t>(kv_head) * a.sizes.group + first_of_group;
  const int lane = lane_index();
  const int warp = warp_index();
  const int all_tokens = task.span.tokens;
  const int left = all_tokens - warp * kPageTokens;
  const int tokens = left < kPageTokens ? left : kPageTokens;
  const int hidden = task.first_token - warp * kPageTokens;
  if (tokens > 0 && tokens > hidden) {
    const bool packed = kPacks && task.span.is_packed(warp);
    const PageOfHead<kPacks> page = {task.span.rows[warp] + kv_head * (packed ? a.packed.bytes() : a.page_bytes),
                                     packed, a.page_bytes, a.packed, a.sizes.head_dim};
    const float* q = reinterpret_cast<const float*>(a.q + task.row * a.q_stride) + head * a.sizes.head_dim;
    const Shared<float> mine = regions + warp * a.sizes.region;
    score_page<Kv, kLanes, kHeads>(a.sizes, q, heads, page, tokens, mine, lane);
    __syncwarp();
    weigh_page<kHeads>(hidden, tokens, mine, max_of + warp * kHeads, sum_of + warp * kHeads, lane);
    __syncwarp();
    sum_page<Kv, kLanes, kHeads>(a.sizes, page, hidden, tokens, mine, lane);
  }
  __syncthreads();
  const int first_page = task.first_token / kPageTokens;
  const int pages = task.first_token < all_tokens ? (all_tokens + kPageTokens - 1) / kPageTokens : first_page;
  float* states = reinterpret_cast<float*>(a.states + task.slot * a.states_stride) + head * a.sizes.state_floats;
  fold_pages<kHeads>(a.sizes, first_page, pages, heads, regions, max_of, sum_of, states);
}

template <typename Kv, int kLanes, int kHeads, bool kPacks>
cudaError_t launch_heads(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(tasks), static_cast<uint32_t>(kv_heads),
                  static_cast<uint32_t>(ceil_div(a.sizes.group, kHeads)));
  AttendLaunch sized = a;
  sized.sizes.region = kHeads * (a.sizes.head_dim > kPageTokens ? a.sizes.head_dim : kPageTokens);
  return launch(attend_span<Kv, kLanes, kHeads, kPacks>, grid, dim3(kAttendThreads),
                kAttendWarps * sized.sizes.region * sizeof(float), stream, sized);
}

// kMostHeads: of a group, in one thread block; the others have further ones.
template <typename Kv, int kLanes, int kMostHeads, bool kPacks>
cudaError_t launch_lanes(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  if (a.sizes.group == 1) return launch_heads<Kv, kLanes, 1, kPacks>(stream, a, tasks, kv_heads);
  if (a.sizes.group == 2) return launch_heads<Kv, kLanes, 2, kPacks>(stream, a, tasks, kv_heads);
  if (a.sizes.group <= 4) return launch_heads<Kv, kLanes, 4, kPacks>(stream, a, tasks, kv_heads);
  return launch_heads<Kv, kLanes, kMostHeads, kPacks>(stream, a, tasks, kv_heads);
}

// Heads of more than 128 elements: all lanes have one token, and shared memory holds the sums of four heads.
template <typename Elements, bool kPacks>
cudaError_t launch_format(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  using Kv = Piece<Elements, 1>;
  constexpr int kLanes = 128 / Kv::kCount;
  using WideKv = Piece<Elements, kCudaMostHeadDim / kWarpLanes / Elements::kCount>;
  if (a.sizes.head_dim <= 64) return launch_lanes<Kv, kLanes / 2, 8, kPacks>(stream, a, tasks, kv_heads);
  if (a.sizes.head_dim <= 128) return launch_lanes<Kv, kLanes, 8, kPacks>(stream, a, tasks, kv_heads);
  return launch_lanes<WideKv, kWarpLanes, 4, kPacks>(stream, a, tasks, kv_heads);
}

}  // namespace

cudaError_t launch_attend(cudaStream_t stream, const CudaAttend& args) {
  const KvFormat& format = args.shape.format;
  SPILLWAY_CHECK(args.q.dtype == DType::f32 && args.states.dtype == DType::f32 &&
                 args.shape.heads % format.kv_heads == 0);
  SPILLWAY_CHECK(args.q.cols == static_cast<int64_t>(args.shape.heads) * format.head_dim);
  SPILLWAY_CHECK(args.states.cols == static_cast<int64_t>(args.shape.heads) * attn_state_floats(format.head_dim));
  if (args.tasks_count == 0) return cudaSuccess;
  if (format.head_dim % 8 != 0 || format.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  if (format.packs() && format.dtype != DType::f16) return cudaErrorNotSupported;
  const AttendLaunch a = {.tasks = args.tasks,
                          .there = args.tasks_there,
                          .q = args.q.data,
                          .states = args.states.data,
                          .q_stride = args.q.stride,
                          .states_stride = args.states.stride,
                          .page_bytes = static_cast<int64_t>(format.page_bytes()),
                          .packed = format.packed_page(),
                          .sizes = {.head_dim = format.head_dim,
                                    .group = args.shape.heads / format.kv_heads,
                                    .state_floats = attn_state_floats(format.head_dim),
                                    .region = 0,
                                    .scale = args.shape.scale}};
  switch (format.dtype) {
    case DType::f16:
      if (format.packs()) return launch_format<ElementsF16, true>(stream, a, args.tasks_count, format.kv_heads);
      return launch_format<ElementsF16, false>(stream, a, args.tasks_count, format.kv_heads);
    case DType::bf16:
      return launch_format<ElementsBf16, false>(stream, a, args.tasks_count, format.kv_heads);
    case DType::f32:
      return launch_format<ElementsF32, false>(stream, a, args.tasks_count, format.kv_heads);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
