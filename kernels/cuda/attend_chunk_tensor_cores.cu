// Prefill attention on tensor cores (FlashAttention-2, arXiv 2307.08691): a warp keeps 16 queries and their running
// softmax states in registers, and 4 warps share each page's keys, then values, in shared memory. While scores are
// computed the values arrive; while values are summed, the next page's keys.
//
// Queries, times the scale of scores, and weights are rounded to the type of the pages; products are summed in 32 bits.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/attend_chunk.cuh"

namespace spillway::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpLanes;
constexpr int kWarpQueries = 16;
constexpr int kQueries = kWarps * kWarpQueries;  // of a thread block
constexpr int kTokens = kPageTokens;             // of a tile
constexpr float kLog2E = 1.44269504f;
constexpr float kNothing = -INFINITY;

struct HalvesF16 {
  __device__ __forceinline__ static uint32_t pack(float low, float high) { return pack_f16(low, high); }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16(c, a, b0, b1);
  }
};
struct HalvesBf16 {
  __device__ __forceinline__ static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16(c, a, b0, b1);
  }
};

// Keys or values of a page in shared memory, token by token, in pieces of 16 bytes. Eight tokens' pieces of one number
// lie in different banks.
template <int kDim>
struct Tile {
  static constexpr int kPieces = kDim <= 64 ? 8 : 16;  // a token's place
  static constexpr int kWords = kTokens * kPieces * 4;
  static constexpr int kStep = kThreads / kPieces;  // tokens between those of one thread, a multiple of 8

  // Word of token `row` + `tokens` and piece `odd` + `pieces`: a multiple of 8 tokens, an even number of pieces and 0
  // or 1 besides, so that all but the pieces' turning is known at compile time.
  __device__ __forceinline__ static int word(int row, int tokens, int odd, int pieces) {
    return row * kPieces * 4 + ((odd ^ row % 8) ^ pieces) * 4 + tokens * kPieces * 4;
  }
};

// The pages that some row of a thread block sees, in order.
struct PageCursor {
  const std::byte* keys = nullptr;  // null: there is no further one
  int position = 0;                 // of the first token
  int tokens = 0;
  int span = 0;
  int page = -1;

  // `begin` and `end`: the first position that any row sees, and the last one plus one.
  __device__ __forceinline__ void next(const ChunkLaunch& a, int kv_head, int begin, int end) {
    page++;
    for (keys = nullptr; span < a.spans_count; span++, page = 0) {
      const KvSpan& s = a.spans[span];
      const int hidden = (begin - s.first_position) / kPageTokens;
      if (page < hidden) page = hidden;
      const int visible = end - s.first_position < s.tokens ? end - s.first_position : s.tokens;
      const int left = visible - page * kPageTokens;
      if (left <= 0) continue;
      keys = s.rows[page] + kv_head * a.page_bytes;
      position = s.first_position + page * kPageTokens;
      tokens = left < kPageTokens ? left : kPageTokens;
      return;
    }
  }
};

// Starts the copy of a page's keys or values; what is not there becomes zero.
template <int kDim>
__device__ __forceinline__ void start_tile(const std::byte* from, int tokens, int head_dim, Shared<uint32_t> tile) {
  using T = Tile<kDim>;
  const int piece = static_cast<int>(threadIdx.x) % T::kPieces;
  const int token = static_cast<int>(threadIdx.x) / T::kPieces;
  const bool in_head = 8 * piece < head_dim;
  const std::byte* source = from + 2 * (token * head_dim + 8 * piece);
  if (piece < kDim / 8) {
#pragma unroll
    for (int i = 0; i < kTokens / T::kStep; i++) {
      const bool there = in_head && token + i * T::kStep < tokens;
      copy_async<16>(tile, T::word(token, i * T::kStep, piece, 0), there ? source : from, there ? 16 : 0);
      source += 2 * T::kStep * head_dim;
    }
  }
  commit_copies();
}

// What a warp holds of its 16 queries. Lane 4 g + t has of queries g and g + 8: their max and sum, as its three
// neighbours do, and elements 8 j + 2 t, 8 j + 2 t + 1 of the sums over values (values[j][0 .. 1] and [2 .. 3]).
template <int kDim>
struct WarpState {
  uint32_t queries[kDim / 16][4];
  float values[kDim / 8][4];
  float max[2];
  float sum[2];
};

// A query past the last row is zero and has an empty state.
template <typename Halves, int kDim>
__device__ __forceinline__ void load_state(const ChunkLaunch& a, int kv_head, int first, int lane,
                                           WarpState<kDim>& state) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const QueryPlace place(a, kv_head, first + lane / 4 + 8 * h);
    const bool there = place.row < a.rows;
    const float* query = place.query(a);
    state.max[h] = kNothing;
    state.sum[h] = 0.0f;
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
      const int d = 8 * j + 2 * (lane % 4);
      const bool in_head = there && d < a.head_dim;
      state.queries[j / 2][h + 2 * (j % 2)] =
          Halves::pack(in_head ? query[d] * a.scale : 0.0f, in_head ? query[d + 1] * a.scale : 0.0f);
      state.values[j][2 * h] = state.values[j][2 * h + 1] = 0.0f;
    }
    if (a.fresh || !there) continue;
    const float* from = place.state(a);
    state.max[h] = from[a.head_dim];
    state.sum[h] = from[a.head_dim + 1];
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
      const int d = 8 * j + 2 * (lane % 4);
      if (d >= a.head_dim) continue;
      state.values[j][2 * h] = from[d];
      state.values[j][2 * h + 1] = from[d + 1];
    }
  }
}

// Zero is stored without a sign: it could tell how many zeros were added.
template <int kDim>
__device__ __forceinline__ void store_state(const ChunkLaunch& a, int kv_head, int first, int lane,
                                            const WarpState<kDim>& state) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const QueryPlace place(a, kv_head, first + lane / 4 + 8 * h);
    if (place.row >= a.rows) continue;
    float* to = place.state(a);
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
      const int d = 8 * j + 2 * (lane % 4);
      if (d >= a.head_dim) continue;
      to[d] = state.values[j][2 * h] + 0.0f;
      to[d + 1] = state.values[j][2 * h + 1] + 0.0f;
    }
    if (lane % 4 != 0) continue;
    to[a.head_dim] = state.max[h] + 0.0f;
    to[a.head_dim + 1] = state.sum[h];
  }
}

// scores[j]: of tokens 8 j + 2 t, 8 j + 2 t + 1 (lane 4 g + t) with queries g and g + 8, as WarpState's values.
template <typename Halves, int kDim>
__device__ __forceinline__ void score_page(const WarpState<kDim>& state, Shared<uint32_t> keys, int lane,
                                           float (&scores)[kTokens / 8][4]) {
#pragma unroll
  for (int n = 0; n < kTokens / 16; n++) {
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      uint32_t b[4];  // tokens 16 n .. and 16 n + 8 .., each in two pieces
      load_matrices(b, keys, Tile<kDim>::word(lane / 16 * 8 + lane % 8, 16 * n, lane / 8 % 2, 2 * k));
      Halves::multiply(scores[2 * n], state.queries[k], b[0], b[1]);
      Halves::multiply(scores[2 * n + 1], state.queries[k], b[2], b[3]);
    }
  }
}

// Scores of query h of the lane's two become weights, of tokens [hidden, seen) alone. Returns what the sums so far are
// to be multiplied by.
template <int kDim>
__device__ __forceinline__ float weigh_page(int h, int hidden, int seen, int lane, float (&scores)[kTokens / 8][4],
                                            WarpState<kDim>& state) {
  float max = kNothing;
#pragma unroll
  for (int j = 0; j < kTokens / 8; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float& score = scores[j][2 * h + e];
      const int token = 8 * j + 2 * (lane % 4) + e;
      if (token < hidden || token >= seen) score = kNothing;
      max = fmaxf(max, score);
    }
  }
  const float old = state.max[h];
  max = fmaxf(old, lane_max<2>(max));
  const float base = max == kNothing ? 0.0f : max * kLog2E;
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kTokens / 8; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float& score = scores[j][2 * h + e];
      score = fast_exp2(fmaf(score, kLog2E, -base));
      sum += score;
    }
  }
  const float factor = old == max ? 1.0f : fast_exp2((old - max) * kLog2E);
  state.max[h] = max;
  state.sum[h] = fmaf(state.sum[h], factor, lane_sum<2>(sum));
  return factor;
}

template <typename Halves, int kDim>
__device__ __forceinline__ void sum_page(const float (&weights)[kTokens / 8][4], Shared<uint32_t> values, int lane,
                                         WarpState<kDim>& state) {
#pragma unroll
  for (int k = 0; k < kTokens / 16; k++) {
    const float(&low)[4] = weights[2 * k];
    const float(&high)[4] = weights[2 * k + 1];
    const uint32_t a[4] = {Halves::pack(low[0], low[1]), Halves::pack(low[2], low[3]), Halves::pack(high[0], high[1]),
                           Halves::pack(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim / 16; n++) {
      uint32_t b[4];  // elements 16 n .. and 16 n + 8 .., of two times eight tokens
      load_matrices_transposed(b, values, Tile<kDim>::word(lane / 8 % 2 * 8 + lane % 8, 16 * k, lane / 16, 2 * n));
      Halves::multiply(state.values[2 * n], a, b[0], b[1]);
      Halves::multiply(state.values[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Block (kQueries queries of a group, KV head); those that see most come first.
template <typename Halves, int kDim>
__global__ void __launch_bounds__(kThreads, kDim <= 64 ? 3 : 2) attend_rows(ChunkLaunch a) {
  SPILLWAY_SHARED(uint32_t, keys, Tile<kDim>::kWords);
  SPILLWAY_SHARED(uint32_t, values, Tile<kDim>::kWords);
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = lane_index();
  const int first = query_tile * kQueries + warp_index() * kWarpQueries;
  const bool has_rows = first / a.group < a.rows;
  const int begin = hidden_tokens(a, query_tile * kQueries / a.group, 0);
  const int end = end_position(a, (query_tile + 1) * kQueries);
  const int warp_end = end_position(a, first + kWarpQueries);
  WarpState<kDim> state;
  load_state<Halves>(a, kv_head, first, lane, state);
  PageCursor page;
  page.next(a, kv_head, begin, end);
  if (page.keys != nullptr) start_tile<kDim>(page.keys, page.tokens, a.head_dim, keys);
  while (page.keys != nullptr) {
    const bool sees = has_rows && warp_end > page.position;
    float scores[kTokens / 8][4] = {};
    wait_for_copies<0>();
    __syncthreads();  // the keys are there, and the last page's values have been read
    start_tile<kDim>(page.keys + a.page_bytes / 2, page.tokens, a.head_dim, values);
    if (sees) score_page<Halves>(state, keys, lane, scores);
    PageCursor next = page;
    next.next(a, kv_head, begin, end);
    wait_for_copies<0>();
    __syncthreads();  // the values are there, and the keys have been read
    if (next.keys != nullptr) start_tile<kDim>(next.keys, next.tokens, a.head_dim, keys);
    if (sees) {
      float factor[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = (first + lane / 4 + 8 * h) / a.group;
        const int seen = a.first_position + row + 1 - page.position;
        const int hidden = hidden_tokens(a, row, page.position);
        factor[h] = weigh_page(h, hidden, seen < page.tokens ? seen : page.tokens, lane, scores, state);
      }
      if (__any_sync(kAllLanes, factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
#pragma unroll
        for (int j = 0; j < kDim / 8; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) state.values[j][e] *= factor[e / 2];
        }
      }
      sum_page<Halves>(scores, values, lane, state);
    }
    page = next;
  }
  store_state(a, kv_head, first, lane, state);
}

template <typename Halves>
cudaError_t launch_halves(cudaStream_t stream, const ChunkLaunch& a, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(ceil_div(int64_t{a.rows} * a.group, kQueries)),
                  static_cast<uint32_t>(kv_heads));
  const auto run = [&](void (*kernel)(ChunkLaunch)) { return launch(kernel, grid, dim3(kThreads), 0, stream, a); };
  if (a.head_dim <= 64) return run(attend_rows<Halves, 64>);
  if (a.head_dim <= 96) return run(attend_rows<Halves, 96>);
  return run(attend_rows<Halves, kMostChunkHeadDim>);
}

}  // namespace

cudaError_t launch_chunk_on_tensor_cores(cudaStream_t stream, DType type, const ChunkLaunch& launch, int kv_heads) {
  switch (type) {
    case DType::f16:
      return launch_halves<HalvesF16>(stream, launch, kv_heads);
    case DType::bf16:
      return launch_halves<HalvesBf16>(stream, launch, kv_heads);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
