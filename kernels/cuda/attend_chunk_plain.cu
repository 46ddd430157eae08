// Prefill attention in plain arithmetic, for pages of F32 and for GPUs whose tensor cores lack a type: rows of queries
// against spans in position order, each row with one running softmax state (the online softmax of FlashAttention, arXiv
// 2205.14135, algorithm 1). A query head shares each tile of keys and values with its group (GQA) and with the rows
// beside it.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/attend_chunk.cuh"
#include "kernels/cuda/elements.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 16;  // threads that share some queries
constexpr float kNothing = -INFINITY;

// What a thread block and a thread take, for heads of up to kDim elements: what 48 KB of shared memory hold.
template <int kDim>
struct Tile {
  static constexpr int kQueriesEach = kDim <= 128 ? 4 : 2;           // of a thread
  static constexpr int kTokensEach = kDim <= 128 ? 2 : 1;            // and tokens
  static constexpr int kFours = kDim / kLanes / 4;                   // and times 4 elements of a head
  static constexpr int kQueries = kThreads / kLanes * kQueriesEach;  // (row, head of the group) pairs of a block
  static constexpr int kTokens = kLanes * kTokensEach;
  static constexpr int kStride = kDim + 4;  // floats; 16 lanes read 16 tokens without a bank conflict
};

// The running state of one query: its max and sum, the same in all lanes that share it, and this lane's elements.
template <int kDim>
struct RunningState {
  float max;
  float sum;
  float values[Tile<kDim>::kFours][4];
};

// Tokens [hidden, seen) of a tile.
struct SeenTokens {
  int hidden;
  int seen;
  __device__ __forceinline__ bool has(int token) const { return token >= hidden && token < seen; }
};

template <int kDim>
__device__ __forceinline__ void load_queries(const ChunkLaunch& a, int tile, int kv_head, Shared<float> queries) {
  for (int i = static_cast<int>(threadIdx.x); i < Tile<kDim>::kQueries * a.head_dim; i += kThreads) {
    const int query = i / a.head_dim;
    const QueryPlace place(a, kv_head, tile * Tile<kDim>::kQueries + query);
    queries[query * kDim + i % a.head_dim] = place.row < a.rows ? place.query(a)[i % a.head_dim] : 0.0f;
  }
}

// Keys or values of `tokens` tokens that lie one after the other; zero for the rest of the tile.
template <typename Kv, int kDim>
__device__ __forceinline__ void load_tile(const std::byte* from, int tokens, int head_dim, Shared<float> tile) {
  const int pieces = head_dim / Kv::kCount;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < Tile<kDim>::kTokens * pieces; i += kThreads) {
    float values[Kv::kCount] = {};
    if (i < tokens * pieces) Kv::unpack(load_cached(from + 16 * i), values);
    const int at = i / pieces * Tile<kDim>::kStride + i % pieces * Kv::kCount;
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
template <int kDim>
__device__ __forceinline__ void score_tile(Shared<float> queries, Shared<float> keys, int head_dim, int lane,
                                           float (&scores)[Tile<kDim>::kQueriesEach][Tile<kDim>::kTokensEach]) {
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    float4 key[Tile<kDim>::kTokensEach];
#pragma unroll
    for (int n = 0; n < Tile<kDim>::kTokensEach; n++) {
      key[n] = load_floats(keys, (lane + n * kLanes) * Tile<kDim>::kStride + d);
    }
#pragma unroll
    for (int j = 0; j < Tile<kDim>::kQueriesEach; j++) {
      const float4 q = load_floats(queries, j * kDim + d);
#pragma unroll
      for (int n = 0; n < Tile<kDim>::kTokensEach; n++) scores[j][n] = dot_four(q, key[n], scores[j][n]);
    }
  }
}

// Scores become weights, of the tokens that are seen; the state is scaled to the new maximum.
template <int kDim>
__device__ __forceinline__ void weigh_tile(float scale, const SeenTokens& tokens, int lane,
                                           float (&scores)[Tile<kDim>::kTokensEach], RunningState<kDim>& state) {
  float tile_max = kNothing;
#pragma unroll
  for (int n = 0; n < Tile<kDim>::kTokensEach; n++) {
    scores[n] = tokens.has(lane + n * kLanes) ? scores[n] * scale : kNothing;
    tile_max = fmaxf(tile_max, scores[n]);
  }
  const float max = fmaxf(state.max, lane_max<kLanes / 2>(tile_max));
  const float factor = state.max == kNothing ? 0.0f : exp_of_negative(state.max - max);
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < Tile<kDim>::kTokensEach; n++) {
    scores[n] = scores[n] == kNothing ? 0.0f : exp_of_negative(scores[n] - max);
    sum = n == 0 ? scores[n] : sum + scores[n];
  }
  sum = lane_sum<kLanes / 2>(sum);
  if (tokens.seen <= 0 || tokens.seen <= tokens.hidden) return;
  state.max = max;
  state.sum = fmaf(state.sum, factor, sum);
#pragma unroll
  for (int e = 0; e < 4 * Tile<kDim>::kFours; e++) state.values[e / 4][e % 4] *= factor;
}

__device__ __forceinline__ void add_values(float weight, float4 v, float (&values)[4]) {
  values[0] = fmaf(weight, v.x, values[0]);
  values[1] = fmaf(weight, v.y, values[1]);
  values[2] = fmaf(weight, v.z, values[2]);
  values[3] = fmaf(weight, v.w, values[3]);
}

// What is not seen is left out, for zero times what is no number is none.
template <int kDim>
__device__ __forceinline__ void sum_tile(Shared<float> weights, Shared<float> tile, int head_dim, int lane,
                                         const SeenTokens (&tokens)[Tile<kDim>::kQueriesEach],
                                         RunningState<kDim> (&states)[Tile<kDim>::kQueriesEach]) {
#pragma unroll 4
  for (int t = 0; t < Tile<kDim>::kTokens; t++) {
#pragma unroll
    for (int n = 0; n < Tile<kDim>::kFours; n++) {
      const int d = 4 * lane + n * 4 * kLanes;
      if (d >= head_dim) continue;
      const float4 v = load_floats(tile, t * Tile<kDim>::kStride + d);
#pragma unroll
      for (int j = 0; j < Tile<kDim>::kQueriesEach; j++) {
        if (tokens[j].has(t)) add_values(weights[j * Tile<kDim>::kTokens + t], v, states[j].values[n]);
      }
    }
  }
}

template <int kDim>
__device__ __forceinline__ void load_states(const ChunkLaunch& a, int kv_head, int first, int lane,
                                            RunningState<kDim> (&states)[Tile<kDim>::kQueriesEach]) {
#pragma unroll
  for (int j = 0; j < Tile<kDim>::kQueriesEach; j++) {
    states[j] = {kNothing, 0.0f, {}};
    const QueryPlace place(a, kv_head, first + j);
    if (a.fresh || place.row >= a.rows) continue;
    const float* from = place.state(a);
    states[j].max = from[a.head_dim];
    states[j].sum = from[a.head_dim + 1];
#pragma unroll
    for (int e = 0; e < 4 * Tile<kDim>::kFours; e++) {
      const int d = 4 * lane + e / 4 * 4 * kLanes + e % 4;
      if (d < a.head_dim) states[j].values[e / 4][e % 4] = from[d];
    }
  }
}

// Zero is stored without a sign: it could tell how many zeros were added.
template <int kDim>
__device__ __forceinline__ void store_states(const ChunkLaunch& a, int kv_head, int first, int lane,
                                             const RunningState<kDim> (&states)[Tile<kDim>::kQueriesEach]) {
#pragma unroll
  for (int j = 0; j < Tile<kDim>::kQueriesEach; j++) {
    const QueryPlace place(a, kv_head, first + j);
    if (place.row >= a.rows) continue;
    float* to = place.state(a);
#pragma unroll
    for (int e = 0; e < 4 * Tile<kDim>::kFours; e++) {
      const int d = 4 * lane + e / 4 * 4 * kLanes + e % 4;
      if (d < a.head_dim) to[d] = states[j].values[e / 4][e % 4] + 0.0f;
    }
    if (lane == 0) {
      to[a.head_dim] = states[j].max + 0.0f;
      to[a.head_dim + 1] = states[j].sum;
    }
  }
}

// Block (queries of a group, KV head); those that see most come first.
template <typename Kv, int kDim>
__global__ void __launch_bounds__(kThreads) attend_rows(ChunkLaunch a) {
  using T = Tile<kDim>;
  constexpr int kElementBytes = 16 / Kv::kCount;
  SPILLWAY_SHARED(float, queries, T::kQueries* kDim);
  SPILLWAY_SHARED(float, tile_of_kv, T::kTokens* T::kStride);
  SPILLWAY_SHARED(float, weights, T::kQueries* T::kTokens);
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first_query = static_cast<int>(threadIdx.x) / kLanes * T::kQueriesEach;
  const Shared<float> my_queries = queries + first_query * kDim;
  const Shared<float> my_weights = weights + first_query * T::kTokens;
  const int last = end_position(a, (query_tile + 1) * T::kQueries);
  RunningState<kDim> states[T::kQueriesEach];
  load_states<kDim>(a, kv_head, query_tile * T::kQueries + first_query, lane, states);
  load_queries<kDim>(a, query_tile, kv_head, queries);
  for (int s = 0; s < a.spans_count; s++) {
    const KvSpan& span = a.spans[s];
    const int visible = last - span.first_position;
    const int end = visible < span.tokens ? visible : span.tokens;
    const int hidden = hidden_tokens(a, query_tile * T::kQueries / a.group, span.first_position);
    for (int first = hidden > 0 ? hidden / T::kTokens * T::kTokens : 0; first < end; first += T::kTokens) {
      const int tokens = end - first < T::kTokens ? end - first : T::kTokens;
      const std::byte* keys = span.rows[first / kPageTokens] + kv_head * a.page_bytes +
                              static_cast<int64_t>(first % kPageTokens) * a.head_dim * kElementBytes;
      load_tile<Kv, kDim>(keys, tokens, a.head_dim, tile_of_kv);
      __syncthreads();
      float scores[T::kQueriesEach][T::kTokensEach] = {};
      score_tile<kDim>(my_queries, tile_of_kv, a.head_dim, lane, scores);
      __syncthreads();
      load_tile<Kv, kDim>(keys + a.page_bytes / 2, tokens, a.head_dim, tile_of_kv);
      SeenTokens of_query[T::kQueriesEach];
#pragma unroll
      for (int j = 0; j < T::kQueriesEach; j++) {
        const int row = (query_tile * T::kQueries + first_query + j) / a.group;
        const int seen = a.first_position + row + 1 - span.first_position - first;
        of_query[j] = {hidden_tokens(a, row, span.first_position + first), seen < tokens ? seen : tokens};
        weigh_tile<kDim>(a.scale, of_query[j], lane, scores[j], states[j]);
#pragma unroll
        for (int n = 0; n < T::kTokensEach; n++) my_weights[j * T::kTokens + lane + n * kLanes] = scores[j][n];
      }
      __syncthreads();
      sum_tile<kDim>(my_weights, tile_of_kv, a.head_dim, lane, of_query, states);
      __syncthreads();
    }
  }
  store_states<kDim>(a, kv_head, query_tile * T::kQueries + first_query, lane, states);
}

template <typename Kv, int kDim>
cudaError_t launch_dim(cudaStream_t stream, const ChunkLaunch& a, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(ceil_div(int64_t{a.rows} * a.group, Tile<kDim>::kQueries)),
                  static_cast<uint32_t>(kv_heads));
  return launch(attend_rows<Kv, kDim>, grid, dim3(kThreads), 0, stream, a);
}

template <typename Kv>
cudaError_t launch_type(cudaStream_t stream, const ChunkLaunch& a, int kv_heads) {
  return a.head_dim <= 128 ? launch_dim<Kv, 128>(stream, a, kv_heads)
                           : launch_dim<Kv, kCudaMostHeadDim>(stream, a, kv_heads);
}

}  // namespace

cudaError_t launch_chunk_plain(cudaStream_t stream, DType type, const ChunkLaunch& a, int kv_heads) {
  switch (type) {
    case DType::bf16:
      return launch_type<ElementsBf16>(stream, a, kv_heads);
    case DType::f32:
      return launch_type<ElementsF32>(stream, a, kv_heads);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
