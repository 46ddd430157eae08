// Prefill attention in plain arithmetic, for pages of F32 and for GPUs whose tensor cores lack a type: rows of queries
// against spans in position order, each row with one running softmax state (the online softmax of FlashAttention, arXiv
// 2205.14135, algorithm 1). A query head shares each tile of 32 keys and values with its group (GQA) and with the rows
// beside it.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/attend_chunk.cuh"
#include "kernels/cuda/elements.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 32;                        // (row, head of the group) pairs of a thread block
constexpr int kTokens = 32;                         // of a tile
constexpr int kQueriesEach = 4;                     // of a thread, for 2 tokens and 2 * 4 elements of a head
constexpr int kLanes = 16;                          // threads that share them
constexpr int kTileStride = kMostChunkHeadDim + 4;  // floats; 16 lanes read 16 tokens without a bank conflict
constexpr float kNothing = -INFINITY;

// The running state of one query: its max and sum, the same in all lanes that share it, and this lane's elements.
struct RunningState {
  float max;
  float sum;
  float values[2][4];
};

__device__ __forceinline__ void load_queries(const ChunkLaunch& a, int tile, int kv_head, Shared<float> queries) {
  for (int i = static_cast<int>(threadIdx.x); i < kQueries * a.head_dim; i += kThreads) {
    const int query = i / a.head_dim;
    const QueryPlace place(a, kv_head, tile * kQueries + query);
    queries[query * kMostChunkHeadDim + i % a.head_dim] = place.row < a.rows ? place.query(a)[i % a.head_dim] : 0.0f;
  }
}

// Keys or values of `tokens` tokens that lie one after the other; zero for the rest of the tile.
template <typename Kv>
__device__ __forceinline__ void load_tile(const std::byte* from, int tokens, int head_dim, Shared<float> tile) {
  const int pieces = head_dim / Kv::kCount;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * pieces; i += kThreads) {
    float values[Kv::kCount] = {};
    if (i < tokens * pieces) Kv::unpack(load_cached(from + 16 * i), values);
    const int at = i / pieces * kTileStride + i % pieces * Kv::kCount;
#pragma unroll
    for (int e = 0; e < Kv::kCount; e += 4) {
      store_floats(tile, at + e, {values[e], values[e + 1], values[e + 2], values[e + 3]});
    }
  }
}

__device__ __forceinline__ float dot_four(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// scores[j][n]: of this thread's query j and token lane + n * kLanes.
__device__ __forceinline__ void score_tile(Shared<float> queries, Shared<float> keys, int head_dim, int lane,
                                           float (&scores)[kQueriesEach][2]) {
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    const float4 low = load_floats(keys, lane * kTileStride + d);
    const float4 high = load_floats(keys, (lane + kLanes) * kTileStride + d);
#pragma unroll
    for (int j = 0; j < kQueriesEach; j++) {
      const float4 q = load_floats(queries, j * kMostChunkHeadDim + d);
      scores[j][0] = dot_four(q, low, scores[j][0]);
      scores[j][1] = dot_four(q, high, scores[j][1]);
    }
  }
}

// Scores become weights, of tokens [hidden, seen) of the tile; the state is scaled to the new maximum.
__device__ __forceinline__ void weigh_tile(float scale, int hidden, int seen, int lane, float (&scores)[2],
                                           RunningState& state) {
  float tile_max = kNothing;
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const int token = lane + n * kLanes;
    scores[n] = token >= hidden && token < seen ? scores[n] * scale : kNothing;
    tile_max = fmaxf(tile_max, scores[n]);
  }
  const float max = fmaxf(state.max, lane_max<kLanes / 2>(tile_max));
  const float factor = state.max == kNothing ? 0.0f : exp_of_negative(state.max - max);
#pragma unroll
  for (int n = 0; n < 2; n++) scores[n] = scores[n] > kNothing ? exp_of_negative(scores[n] - max) : 0.0f;
  const float sum = lane_sum<kLanes / 2>(scores[0] + scores[1]);
  if (seen <= 0 || seen <= hidden) return;
  state.max = max;
  state.sum = fmaf(state.sum, factor, sum);
#pragma unroll
  for (int e = 0; e < 8; e++) state.values[e / 4][e % 4] *= factor;
}

__device__ __forceinline__ void add_values(float weight, float4 v, float (&values)[4]) {
  values[0] = fmaf(weight, v.x, values[0]);
  values[1] = fmaf(weight, v.y, values[1]);
  values[2] = fmaf(weight, v.z, values[2]);
  values[3] = fmaf(weight, v.w, values[3]);
}

__device__ __forceinline__ void sum_tile(Shared<float> weights, Shared<float> tile, int head_dim, int lane,
                                         RunningState (&states)[kQueriesEach]) {
#pragma unroll 4
  for (int t = 0; t < kTokens; t++) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int d = 4 * lane + n * kMostChunkHeadDim / 2;
      if (d >= head_dim) continue;
      const float4 v = load_floats(tile, t * kTileStride + d);
#pragma unroll
      for (int j = 0; j < kQueriesEach; j++) add_values(weights[j * kTokens + t], v, states[j].values[n]);
    }
  }
}

__device__ __forceinline__ void load_states(const ChunkLaunch& a, int kv_head, int first, int lane,
                                            RunningState (&states)[kQueriesEach]) {
#pragma unroll
  for (int j = 0; j < kQueriesEach; j++) {
    states[j] = {kNothing, 0.0f, {}};
    const QueryPlace place(a, kv_head, first + j);
    if (a.fresh || place.row >= a.rows) continue;
    const float* from = place.state(a);
    states[j].max = from[a.head_dim];
    states[j].sum = from[a.head_dim + 1];
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const int d = 4 * lane + e / 4 * kMostChunkHeadDim / 2 + e % 4;
      if (d < a.head_dim) states[j].values[e / 4][e % 4] = from[d];
    }
  }
}

// Zero is stored without a sign: it could tell how many zeros were added.
__device__ __forceinline__ void store_states(const ChunkLaunch& a, int kv_head, int first, int lane,
                                             const RunningState (&states)[kQueriesEach]) {
#pragma unroll
  for (int j = 0; j < kQueriesEach; j++) {
    const QueryPlace place(a, kv_head, first + j);
    if (place.row >= a.rows) continue;
    float* to = place.state(a);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const int d = 4 * lane + e / 4 * kMostChunkHeadDim / 2 + e % 4;
      if (d < a.head_dim) to[d] = states[j].values[e / 4][e % 4] + 0.0f;
    }
    if (lane == 0) {
      to[a.head_dim] = states[j].max + 0.0f;
      to[a.head_dim + 1] = states[j].sum;
    }
  }
}

// Block (kQueries queries of a group, KV head); those that see most come first.
template <typename Kv>
__global__ void __launch_bounds__(kThreads) attend_rows(ChunkLaunch a) {
  constexpr int kElementBytes = 16 / Kv::kCount;
  SPILLWAY_SHARED(float, queries, kQueries* kMostChunkHeadDim);
  SPILLWAY_SHARED(float, tile_of_kv, kTokens* kTileStride);
  SPILLWAY_SHARED(float, weights, kQueries* kTokens);
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first_query = static_cast<int>(threadIdx.x) / kLanes * kQueriesEach;
  const Shared<float> my_queries = queries + first_query * kMostChunkHeadDim;
  const Shared<float> my_weights = weights + first_query * kTokens;
  const int last = end_position(a, (query_tile + 1) * kQueries);
  RunningState states[kQueriesEach];
  load_states(a, kv_head, query_tile * kQueries + first_query, lane, states);
  load_queries(a, query_tile, kv_head, queries);
  for (int s = 0; s < a.spans_count; s++) {
    const KvSpan& span = a.spans[s];
    const int visible = last - span.first_position;
    const int end = visible < span.tokens ? visible : span.tokens;
    const int hidden = hidden_tokens(a, query_tile * kQueries / a.group, span.first_position);
    for (int first = hidden > 0 ? hidden / kTokens * kTokens : 0; first < end; first += kTokens) {
      const int tokens = end - first < kTokens ? end - first : kTokens;
      const std::byte* keys = span.rows[first / kPageTokens] + kv_head * a.page_bytes +
                              static_cast<int64_t>(first % kPageTokens) * a.head_dim * kElementBytes;
      load_tile<Kv>(keys, tokens, a.head_dim, tile_of_kv);
      __syncthreads();
      float scores[kQueriesEach][2] = {};
      score_tile(my_queries, tile_of_kv, a.head_dim, lane, scores);
      __syncthreads();
      load_tile<Kv>(keys + a.page_bytes / 2, tokens, a.head_dim, tile_of_kv);
#pragma unroll
      for (int j = 0; j < kQueriesEach; j++) {
        const int row = (query_tile * kQueries + first_query + j) / a.group;
        const int seen = a.first_position + row + 1 - span.first_position - first;
        const int out_of_window = hidden_tokens(a, row, span.first_position + first);
        weigh_tile(a.scale, out_of_window, seen < tokens ? seen : tokens, lane, scores[j], states[j]);
        my_weights[j * kTokens + lane] = scores[j][0];
        my_weights[j * kTokens + lane + kLanes] = scores[j][1];
      }
      __syncthreads();
      sum_tile(my_weights, tile_of_kv, a.head_dim, lane, states);
      __syncthreads();
    }
  }
  store_states(a, kv_head, query_tile * kQueries + first_query, lane, states);
}

}  // namespace

cudaError_t launch_chunk_plain(cudaStream_t stream, DType type, const ChunkLaunch& a, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(ceil_div(int64_t{a.rows} * a.group, kQueries)),
                  static_cast<uint32_t>(kv_heads));
  switch (type) {
    case DType::bf16:
      return launch(attend_rows<ElementsBf16>, grid, dim3(kThreads), 0, stream, a);
    case DType::f32:
      return launch(attend_rows<ElementsF32>, grid, dim3(kThreads), 0, stream, a);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
