// Decode attention: one query row against one span, for a group of query heads that share a KV head (GQA, arXiv
// 2305.13245). The result is a partial softmax state (kernels/kv_span.h), to be merged with those of the other spans.
//
// A thread block takes one task and one KV head (and up to 8 of its query heads), a warp each page of the span. The
// lanes of a warp load K, then V, of consecutive tokens, 16 bytes each; every load serves all heads of the group. The
// order of additions is by tokens within a page, then by pages: nothing else enters into a result.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/packed_page.cuh"

namespace spillway::cuda {
namespace {

constexpr int kWarps = kPagesPerSpan;
constexpr int kThreads = kWarps * kWarpLanes;
constexpr float kNothing = -INFINITY;

struct AttendLaunch {
  const SpanTask* tasks;
  const int32_t* there;  // how many tasks there are; null: as many as thread blocks
  const std::byte* q;
  std::byte* states;
  uint64_t q_stride;
  uint64_t states_stride;
  int64_t page_bytes;
  PackedPage packed;  // of packed page rows
  int head_dim;
  int group;
  int state_floats;
  int region;  // floats of shared memory for each warp: scores, later the sums over V
  float scale;
};

// What a lane holds of a token: kLoads times 16 bytes.
template <typename Elements, int kLoads>
struct Piece {
  static constexpr int kSixteens = kLoads;
  static constexpr int kCount = kLoads * Elements::kCount;
  static constexpr int kElementBytes = 16 / Elements::kCount;
  __device__ __forceinline__ static void unpack(const uint4 (&held)[kLoads], float* values) {
#pragma unroll
    for (int l = 0; l < kLoads; l++) Elements::unpack(held[l], values + l * Elements::kCount);
  }
};

// Which part of the work a lane has: kLanes lanes hold the pieces of one token, the other lanes further tokens.
template <typename Kv, int kLanes>
struct LanePlace {
  int piece;     // elements [piece, piece + Kv::kCount) of a head
  int token;     // of the tokens loaded together
  bool in_head;  // head_dim may end before the last lane

  __device__ __forceinline__ LanePlace(int lane, int head_dim)
      : piece(lane % kLanes * Kv::kCount), token(lane / kLanes), in_head(piece < head_dim) {}
};

// Pieces, for each lane. One span of few KV heads leaves most of a GPU idle: then a warp's own loads decide, and a
// page of 64 tokens is a chain of few round trips to memory. Many query heads need the registers.
constexpr int loads_in_flight(int heads, int sixteens) { return (heads <= 4 ? 8 : 4) / sixteens; }

// One head's page of a span's row: as it is, or packed.
struct PageOfHead {
  const std::byte* bytes;
  bool packed;
};

// Calls visit(token, values) for this lane's tokens of [0, tokens rounded up), in order; those before `hidden`, absent
// tokens and absent elements are zero. `rows`: keys or values.
template <typename Kv, int kLanes, int kInFlight, typename Visit>
__device__ __forceinline__ void for_each_token(const std::byte* rows, const LanePlace<Kv, kLanes>& place, int hidden,
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

// The same of either. kPacks: whether there are packed pages at all.
template <typename Kv, int kLanes, int kInFlight, bool kPacks, typename Visit>
__device__ __forceinline__ void for_each_token(const AttendLaunch& a, const PageOfHead& page, bool value,
                                               const LanePlace<Kv, kLanes>& place, int hidden, int tokens,
                                               const Visit& visit) {
  if constexpr (kPacks) {
    if (page.packed && !value && a.packed.header_bytes > 0) {
      return for_each_packed_token<Kv, kLanes, kInFlight, true>(a.packed, page.bytes, value, place, hidden, tokens,
                                                                visit);
    }
    if (page.packed) {
      return for_each_packed_token<Kv, kLanes, kInFlight, false>(a.packed, page.bytes, value, place, hidden, tokens,
                                                                 visit);
    }
  }
  for_each_token<Kv, kLanes, kInFlight>(page.bytes + (value ? a.page_bytes / 2 : 0), place, hidden, tokens, a.head_dim,
                                        visit);
}

// scores[g * kPageTokens + t] = scale * q[g] . k[t] for the page's tokens.
template <typename Kv, int kLanes, int kHeads, bool kPacks>
__device__ __forceinline__ void score_page(const AttendLaunch& a, const float* q, int heads, const PageOfHead& page,
                                           int tokens, Shared<float> scores, int lane) {
  const LanePlace<Kv, kLanes> place(lane, a.head_dim);
  float query[kHeads][Kv::kCount];
#pragma unroll
  for (int g = 0; g < kHeads; g++) {
#pragma unroll
    for (int e = 0; e < Kv::kCount; e++) {
      query[g][e] = g < heads && place.in_head ? q[g * a.head_dim + place.piece + e] : 0.0f;
    }
  }
  for_each_token<Kv, kLanes, loads_in_flight(kHeads, Kv::kSixteens), kPacks>(
      a, page, false, place, 0, tokens, [&](int token, const float* k) {
        float dot[kHeads] = {};
#pragma unroll
        for (int g = 0; g < kHeads; g++) {
#pragma unroll
          for (int e = 0; e < Kv::kCount; e++) dot[g] = fmaf(query[g][e], k[e], dot[g]);
        }
        lane_sums<kHeads, kLanes / 2>(dot, lane);
        if (token < tokens && writes_sum<kHeads, kLanes / 2>(lane)) {
          scores[summed_index<kHeads, kLanes / 2>(lane) * kPageTokens + token] = dot[0] * a.scale;
        }
      });
}

// Scores become weights exp(score - max), zero outside the page's tokens [hidden, tokens); lane 0 notes max and sum of
// each head.
template <int kHeads>
__device__ __forceinline__ void weigh_page(int hidden, int tokens, Shared<float> scores, Shared<float> max_of,
                                           Shared<float> sum_of, int lane) {
  const bool has_low = lane >= hidden && lane < tokens;
  const bool has_high = lane + kWarpLanes >= hidden && lane + kWarpLanes < tokens;
#pragma unroll
  for (int g = 0; g < kHeads; g++) {
    const int at = g * kPageTokens + lane;
    const float low = has_low ? static_cast<float>(scores[at]) : kNothing;
    const float high = has_high ? static_cast<float>(scores[at + kWarpLanes]) : kNothing;
    float largest = fmaxf(low, high);
#pragma unroll
    for (int offset = kWarpLanes / 2; offset >= 1; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
    }
    const float low_weight = has_low ? exp_of_negative(low - largest) : 0.0f;
    const float high_weight = has_high ? exp_of_negative(high - largest) : 0.0f;
    scores[at] = low_weight;
    scores[at + kWarpLanes] = high_weight;
    const float sum = lane_sum<kWarpLanes / 2>(low_weight + high_weight);
    if (lane == 0) {
      max_of[g] = largest;
      sum_of[g] = sum;
    }
  }
}

// sums[g * head_dim + d] = sum over the page's tokens [hidden, tokens) of weight * v; takes the place of the weights.
template <typename Kv, int kLanes, int kHeads, bool kPacks>
__device__ __forceinline__ void sum_page(const AttendLaunch& a, const PageOfHead& page, int hidden, int tokens,
                                         Shared<float> weights, int lane) {
  const LanePlace<Kv, kLanes> place(lane, a.head_dim);
  constexpr int kSums = kHeads * Kv::kCount;
  float acc[kSums] = {};
  for_each_token<Kv, kLanes, loads_in_flight(kHeads, Kv::kSixteens), kPacks>(
      a, page, true, place, hidden, tokens, [&](int token, const float* v) {
#pragma unroll
        for (int g = 0; g < kHeads; g++) {
          const float weight = weights[g * kPageTokens + token];
#pragma unroll
          for (int e = 0; e < Kv::kCount; e++) acc[g * Kv::kCount + e] = fmaf(weight, v[e], acc[g * Kv::kCount + e]);
        }
      });
  lane_sums<kSums, kWarpLanes / 2, kLanes>(acc, lane);
  __syncwarp();  // the weights have been read
  if (!place.in_head) return;
  const int first = summed_index<kSums, kWarpLanes / 2, kLanes>(lane);
#pragma unroll
  for (int i = 0; i < kSums * kLanes / kWarpLanes; i++) {
    const int g = (first + i) / Kv::kCount;
    weights[g * a.head_dim + place.piece + (first + i) % Kv::kCount] = acc[i];
  }
}

// The states of pages [first_page, pages) folded into one, in order; page w's sums begin at sums[w * region].
template <int kHeads>
__device__ __forceinline__ void fold_pages(const AttendLaunch& a, int first_page, int pages, int heads,
                                           Shared<float> sums, Shared<float> max_of, Shared<float> sum_of,
                                           float* states) {
  for (int i = static_cast<int>(threadIdx.x); i < heads * a.state_floats; i += kThreads) {
    const int g = i / a.state_floats;
    const int d = i % a.state_floats;
    float largest = kNothing;
    for (int w = first_page; w < pages; w++) largest = fmaxf(largest, max_of[w * kHeads + g]);
    float result = 0.0f;
    for (int w = first_page; w < pages; w++) {
      const float factor = exp_of_negative(max_of[w * kHeads + g] - largest);
      const float part = d < a.head_dim ? sums[w * a.region + g * a.head_dim + d] : sum_of[w * kHeads + g];
      result = fmaf(part, factor, result);
    }
    states[i] = d == a.head_dim ? largest : result;
  }
}

// Block (task, KV head, kHeads of its group).
template <typename Kv, int kLanes, int kHeads, bool kPacks>
__global__ void __launch_bounds__(kThreads, 2) attend_span(AttendLaunch a) {
  if (a.there != nullptr && static_cast<int>(blockIdx.x) >= *a.there) return;
  const Shared<float> regions = dynamic_shared<float>(0, kWarps * a.region);
  SPILLWAY_SHARED(float, max_of, kWarps* kHeads);
  SPILLWAY_SHARED(float, sum_of, kWarps* kHeads);
  const SpanTask& task = a.tasks[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int first_of_group = static_cast<int>(blockIdx.z) * kHeads;
  const int heads = a.group - first_of_group < kHeads ? a.group - first_of_group : kHeads;
  const int64_t head = static_cast<int64_t>(kv_head) * a.group + first_of_group;
  const int lane = lane_index();
  const int warp = warp_index();
  const int all_tokens = task.span.tokens;
  const int left = all_tokens - warp * kPageTokens;
  const int tokens = left < kPageTokens ? left : kPageTokens;
  const int hidden = task.first_token - warp * kPageTokens;
  if (tokens > 0 && tokens > hidden) {
    const bool packed = kPacks && task.span.is_packed(warp);
    const PageOfHead page = {task.span.rows[warp] + kv_head * (packed ? a.packed.bytes() : a.page_bytes), packed};
    const float* q = reinterpret_cast<const float*>(a.q + task.row * a.q_stride) + head * a.head_dim;
    const Shared<float> mine = regions + warp * a.region;
    score_page<Kv, kLanes, kHeads, kPacks>(a, q, heads, page, tokens, mine, lane);
    __syncwarp();
    weigh_page<kHeads>(hidden, tokens, mine, max_of + warp * kHeads, sum_of + warp * kHeads, lane);
    __syncwarp();
    sum_page<Kv, kLanes, kHeads, kPacks>(a, page, hidden, tokens, mine, lane);
  }
  __syncthreads();
  const int first_page = task.first_token / kPageTokens;
  const int pages = task.first_token < all_tokens ? (all_tokens + kPageTokens - 1) / kPageTokens : first_page;
  float* states = reinterpret_cast<float*>(a.states + task.slot * a.states_stride) + head * a.state_floats;
  fold_pages<kHeads>(a, first_page, pages, heads, regions, max_of, sum_of, states);
}

template <typename Kv, int kLanes, int kHeads, bool kPacks>
cudaError_t launch_heads(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(tasks), static_cast<uint32_t>(kv_heads),
                  static_cast<uint32_t>(ceil_div(a.group, kHeads)));
  AttendLaunch sized = a;
  sized.region = kHeads * (a.head_dim > kPageTokens ? a.head_dim : kPageTokens);
  return launch(attend_span<Kv, kLanes, kHeads, kPacks>, grid, dim3(kThreads), kWarps * sized.region * sizeof(float),
                stream, sized);
}

// kMostHeads: of a group, in one thread block; the others have further ones.
template <typename Kv, int kLanes, int kMostHeads, bool kPacks>
cudaError_t launch_lanes(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  if (a.group == 1) return launch_heads<Kv, kLanes, 1, kPacks>(stream, a, tasks, kv_heads);
  if (a.group == 2) return launch_heads<Kv, kLanes, 2, kPacks>(stream, a, tasks, kv_heads);
  if (a.group <= 4) return launch_heads<Kv, kLanes, 4, kPacks>(stream, a, tasks, kv_heads);
  return launch_heads<Kv, kLanes, kMostHeads, kPacks>(stream, a, tasks, kv_heads);
}

// Heads of more than 128 elements: all lanes have one token, and shared memory holds the sums of four heads.
template <typename Elements, bool kPacks>
cudaError_t launch_format(cudaStream_t stream, const AttendLaunch& a, int tasks, int kv_heads) {
  using Kv = Piece<Elements, 1>;
  constexpr int kLanes = 128 / Kv::kCount;
  using WideKv = Piece<Elements, kCudaMostHeadDim / kWarpLanes / Elements::kCount>;
  if (a.head_dim <= 64) return launch_lanes<Kv, kLanes / 2, 8, kPacks>(stream, a, tasks, kv_heads);
  if (a.head_dim <= 128) return launch_lanes<Kv, kLanes, 8, kPacks>(stream, a, tasks, kv_heads);
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
                          .head_dim = format.head_dim,
                          .group = args.shape.heads / format.kv_heads,
                          .state_floats = attn_state_floats(format.head_dim),
                          .region = 0,
                          .scale = args.shape.scale};
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
