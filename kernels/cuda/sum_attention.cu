// Accumulated attention (Ops::sum_attention, Ops::sum_selected): a warp has one token, its key in the lanes, and adds
// up the weights that the queries of the group give it, rows ascending, then heads. What a softmax is over, the states
// of the attention say.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/kv_codec.h"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kMostOfLane = kCudaMostHeadDim / kWarpLanes;

// A channel of a packed key: the number that its half has. header: where the page's own lies.
__device__ __forceinline__ float packed_channel(const PackedPage& p, const std::byte* header, const std::byte* page,
                                                int token, int channel) {
  const int bit = channel * p.bits;
  const auto byte = static_cast<uint32_t>(page[p.codes(token, false) + bit / 8]);
  const uint32_t code = byte >> bit % 8 & ((1u << p.bits) - 1);
  const std::byte* group =
      p.header_bytes > 0 ? header + 4 * channel : page + p.scales(token, false) + channel / p.group * 4;
  const auto* halves = reinterpret_cast<const uint16_t*>(group);  // GroupScale: a scale, then a minimum
  return load_f16(unpacked(static_cast<float>(code), load_f16(halves[0]), load_f16(halves[1])));
}

// Channels lane, lane + 32, ... of a key.
struct LaneKey {
  float channels[kMostOfLane];

  __device__ __forceinline__ LaneKey(const PackedPage& p, const std::byte* header, const std::byte* page, int token) {
#pragma unroll
    for (int i = 0; i < kMostOfLane; i++) {
      const int channel = i * kWarpLanes + lane_index();
      channels[i] = channel < p.head_dim ? packed_channel(p, header, page, token, channel) : 0.0f;
    }
  }

  __device__ __forceinline__ LaneKey(const std::byte* key, int head_dim) {
    const auto* halves = reinterpret_cast<const uint16_t*>(key);
#pragma unroll
    for (int i = 0; i < kMostOfLane; i++) {
      const int channel = i * kWarpLanes + lane_index();
      channels[i] = channel < head_dim ? load_f16(halves[channel]) : 0.0f;
    }
  }
  // All lanes get it.
  __device__ __forceinline__ float dot(const float* q, int head_dim) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMostOfLane; i++) {
      const int channel = i * kWarpLanes + lane_index();
      if (channel < head_dim) sum = fmaf(q[channel], channels[i], sum);
    }
    return lane_sum<kWarpLanes / 2>(sum);
  }
};

struct ChunkLaunch {
  const KvSpan* spans;
  const std::byte* q;
  const std::byte* states;
  std::byte* sums;
  uint64_t q_stride;
  uint64_t states_stride;
  uint64_t sums_stride;
  PackedPage packed;
  int64_t page_bytes;
  int rows;
  int first_position;
  int window;
  int head_dim;
  int group;
  int granule_tokens;
  float scale;
};

// Block (page of a span, KV head).
__global__ void __launch_bounds__(kThreads) sum_page(ChunkLaunch a) {
  SPILLWAY_SHARED(float, columns, kPageTokens);
  const KvSpan* span = a.spans + blockIdx.x / kPagesPerSpan;
  const int page = static_cast<int>(blockIdx.x) % kPagesPerSpan;
  const int left = span->tokens - page * kPageTokens;
  const int tokens = left < kPageTokens ? left : kPageTokens;
  if (tokens <= 0) return;
  const int first = span->first_position + page * kPageTokens;
  const int64_t kv_head = blockIdx.y;
  const bool is_packed = (span->packed >> page & 1) != 0;
  const std::byte* keys = span->rows[page] + kv_head * (is_packed ? a.packed.bytes() : a.page_bytes);
  for (int t = warp_index(); t < tokens; t += kWarps) {
    const LaneKey key =
        is_packed ? LaneKey(a.packed, keys, keys, t) : LaneKey(keys + int64_t{2} * t * a.head_dim, a.head_dim);
    float sum = 0.0f;
    const int seen_from = first + t - a.first_position;
    const int seen_to = a.window == 0 || a.window > a.rows - seen_from ? a.rows : seen_from + a.window;
    for (int row = seen_from > 0 ? seen_from : 0; row < seen_to; row++) {
      for (int g = 0; g < a.group; g++) {
        const int64_t head = kv_head * a.group + g;
        const float* q = reinterpret_cast<const float*>(a.q + row * a.q_stride) + head * a.head_dim;
        const float* state = reinterpret_cast<const float*>(a.states + row * a.states_stride) +
                             head * attn_state_floats(a.head_dim) + a.head_dim;
        sum += exp_of_negative(key.dot(q, a.head_dim) * a.scale - state[0]) / state[1];
      }
    }
    if (lane_index() == 0) columns[t] = sum;
  }
  __syncthreads();
  float* sums = reinterpret_cast<float*>(a.sums + kv_head * a.sums_stride);
  for (int g = static_cast<int>(threadIdx.x); g * a.granule_tokens < tokens; g += kThreads) {
    const int begin = g * a.granule_tokens;
    const int end = begin + a.granule_tokens < tokens ? begin + a.granule_tokens : tokens;
    float sum = 0.0f;
    for (int t = begin; t < end; t++) sum += columns[t];
    float* to = sums + (first + begin) / a.granule_tokens;
    *to = first + begin >= a.first_position ? sum : *to + sum;
  }
}

struct SelectedSumsLaunch {
  const CudaSelectedSums* step;
  const std::byte* q;
  const std::byte* ids;
  const std::byte* states;
  std::byte* sums;
  uint64_t ids_stride;
  uint64_t states_stride;
  uint64_t sums_stride;
  PackedPage packed;
  int head_dim;
  int group;
  float scale;
};

// The place of a granule in ascending ids; below 0: it is none of them.
__device__ __forceinline__ int place_of(const int32_t* ids, int count, int32_t granule) {
  int low = 0;
  int high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ids[middle] < granule) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && ids[low] == granule ? low : -1;
}

// Block (granules [kWarps * x, ...), KV head): a warp to a granule.
__global__ void __launch_bounds__(kThreads) sum_granules(SelectedSumsLaunch a) {
  const SelectedKv kv = a.step->kv;
  const int tokens = a.step->tokens;
  const int granule = static_cast<int>(blockIdx.x) * kWarps + warp_index();
  if (granule * kv.granule_tokens >= tokens) return;
  const int64_t kv_head = blockIdx.y;
  const auto* ids = reinterpret_cast<const int32_t*>(a.ids + kv_head * a.ids_stride);
  const GranulePlace* places = kv.places + kv_head * kv.granules;
  int count = kv.granules;
  while (count > 0 && places[count - 1].tokens == 0) count--;
  const int at = place_of(ids, count, granule);
  float* to = reinterpret_cast<float*>(a.sums + kv_head * a.sums_stride) + granule;
  if (at < 0) {
    if (lane_index() == 0) *to = NAN;
    return;
  }
  float sum = 0.0f;
  for (int g = 0; g < a.group; g++) {
    const int64_t head = kv_head * a.group + g;
    const float* q = reinterpret_cast<const float*>(a.q) + head * a.head_dim;
    const int64_t state_at = head * attn_state_floats(a.head_dim) + a.head_dim;
    const auto state = [&](int row) {
      return reinterpret_cast<const float*>(a.states + row * a.states_stride) + state_at;
    };
    float largest = -INFINITY;
    for (int row = 0; row < kv.states(); row++) largest = fmaxf(largest, state(row)[0]);
    float total = 0.0f;
    for (int row = 0; row < kv.states(); row++) {
      total = fmaf(state(row)[1], exp_of_negative(state(row)[0] - largest), total);
    }
    for (int t = 0; t < places[at].tokens; t++) {
      const GranulePlace& place = places[at];
      const LaneKey key = place.packed != 0 ? LaneKey(a.packed, place.values, place.keys - a.packed.header_bytes, t)
                                            : LaneKey(place.keys + int64_t{2} * t * a.head_dim, a.head_dim);
      sum += exp_of_negative(key.dot(q, a.head_dim) * a.scale - largest) / total;
    }
  }
  if (lane_index() == 0) *to = granule * kv.granule_tokens == tokens - 1 ? sum : *to + sum;
}

}  // namespace

cudaError_t launch_sum_attention(cudaStream_t stream, const CudaSumAttention& args) {
  const KvFormat& kv = args.shape.format;
  if (args.spans_count == 0 || args.q.rows == 0) return cudaSuccess;
  if (kv.head_dim % 8 != 0 || kv.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  const ChunkLaunch a = {.spans = args.spans,
                         .q = args.q.data,
                         .states = args.states.data,
                         .sums = args.sums.data,
                         .q_stride = args.q.stride,
                         .states_stride = args.states.stride,
                         .sums_stride = args.sums.stride,
                         .packed = kv.packed_page(),
                         .page_bytes = static_cast<int64_t>(kv.page_bytes()),
                         .rows = static_cast<int>(args.q.rows),
                         .first_position = args.first_position,
                         .window = args.shape.window,
                         .head_dim = kv.head_dim,
                         .group = args.shape.heads / kv.kv_heads,
                         .granule_tokens = args.granule_tokens,
                         .scale = args.shape.scale};
  const dim3 grid(static_cast<uint32_t>(args.spans_count) * kPagesPerSpan, static_cast<uint32_t>(kv.kv_heads));
  return launch(sum_page, grid, dim3(kThreads), 0, stream, a);
}

cudaError_t launch_sum_selected(cudaStream_t stream, const CudaSumSelected& args) {
  const KvFormat& kv = args.shape.format;
  if (args.granules == 0) return cudaSuccess;
  if (kv.head_dim % 8 != 0 || kv.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  const SelectedSumsLaunch a = {.step = args.step,
                                .q = args.q.data,
                                .ids = args.ids,
                                .states = args.states,
                                .sums = args.sums,
                                .ids_stride = args.ids_stride,
                                .states_stride = args.states_stride,
                                .sums_stride = args.sums_stride,
                                .packed = kv.packed_page(),
                                .head_dim = kv.head_dim,
                                .group = args.shape.heads / kv.kv_heads,
                                .scale = args.shape.scale};
  const dim3 grid(static_cast<uint32_t>(ceil_div(args.granules, kWarps)), static_cast<uint32_t>(kv.kv_heads));
  return launch(sum_granules, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
