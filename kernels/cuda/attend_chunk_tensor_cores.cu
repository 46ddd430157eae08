// Prefill attention on tensor cores (FlashAttention-2, arXiv 2307.08691): a warp keeps 16 queries and their running
// softmax states in registers, and 4 warps share a tile of keys, then of values, in shared memory. While scores are
// computed the values arrive; while values are summed, the next tile's keys.
//
// Queries, times the scale of scores, and weights are rounded to the type of the pages; products are summed in 32 bits.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/attend_chunk.cuh"
#include "kernels/cuda/packed_page.cuh"

namespace spillway::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpLanes;
constexpr int kWarpQueries = 16;
constexpr int kQueries = kWarps * kWarpQueries;  // of a thread block
constexpr float kLog2E = 1.44269504f;
constexpr float kNothing = -INFINITY;

struct HalvesF16 {
  static constexpr uint32_t kInfinity = 0x7c00;
  __device__ __forceinline__ static float value(uint32_t bits) { return load_f16(static_cast<uint16_t>(bits)); }
  __device__ __forceinline__ static uint32_t pack(float low, float high) { return pack_f16(low, high); }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16(c, a, b0, b1);
  }
};
struct HalvesBf16 {
  static constexpr uint32_t kInfinity = 0x7f80;
  __device__ __forceinline__ static float value(uint32_t bits) { return float_from_bits(bits << 16); }
  __device__ __forceinline__ static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16(c, a, b0, b1);
  }
};

// Keys or values of a page, or of a quarter of one where heads are wide, in shared memory, token by token, in pieces of
// 16 bytes. Eight tokens' pieces of one number lie in different banks.
template <int kDim>
struct Tile {
  static constexpr int kTokens = kDim <= 128 ? kPageTokens : kPageTokens / 4;
  static constexpr int kPieces = kDim <= 64 ? 8 : kDim <= 128 ? 16 : 32;  // a token's place
  static constexpr int kWords = kTokens * kPieces * 4;
  static constexpr int kCopied = kPieces < 16 ? kPieces : 16;  // pieces of a token that threads copy side by side
  static constexpr int kStep = kThreads / kCopied;             // tokens between those of one thread, a multiple of 8

  // Word of token `row` + `tokens` and piece `odd` + `pieces`: a multiple of 8 tokens, an even number of pieces and 0
  // or 1 besides (or a multiple of 16 and less than 16), so that all but the pieces' turning is known at compile time.
  __device__ __forceinline__ static int word(int row, int tokens, int odd, int pieces) {
    return row * kPieces * 4 + ((odd ^ row % 8) ^ pieces) * 4 + tokens * kPieces * 4;
  }
};

// The queries of a thread block: the first kHeld pieces of 16 elements stay in registers. Where heads are so wide that
// those would not suffice beside the sums, the others lie in shared memory, and each warp reads its own.
template <int kDim>
struct QueryTile {
  static constexpr int kHeld = kDim <= 128 ? kDim / 16 : 6;
  static constexpr int kPieces = 2 * (kDim / 16 - kHeld) + 1;  // of 16 bytes, of a query; odd: rows in different banks
  static constexpr int kWords = kHeld < kDim / 16 ? kQueries * kPieces * 4 : 4;

  __device__ __forceinline__ static int word(int query, int piece) { return (query * kPieces + piece) * 4; }
};

template <int kDim>
using Scores = float[Tile<kDim>::kTokens / 8][4];

// The tiles that some row of a thread block sees, in order.
template <int kTokens, bool kPacks>
struct TileCursor {
  static constexpr int kTilesPerPage = kPageTokens / kTokens;
  const std::byte* keys = nullptr;  // null: there is no further one; of a packed page: where it begins
  bool packed = false;
  int position = 0;  // of the first token
  int tokens = 0;
  int span = 0;
  int tile = -1;

  __device__ __forceinline__ int first_token() const { return tile % kTilesPerPage * kTokens; }  // in its page

  // `begin` and `end`: the first position that any row sees, and the last one plus one.
  __device__ __forceinline__ void next(const ChunkLaunch& a, int kv_head, int begin, int end) {
    tile++;
    for (keys = nullptr; span < a.spans_count; span++, tile = 0) {
      const KvSpan& s = a.spans[span];
      const int hidden = (begin - s.first_position) / kTokens;
      if (tile < hidden) tile = hidden;
      const int visible = end - s.first_position < s.tokens ? end - s.first_position : s.tokens;
      const int left = visible - tile * kTokens;
      if (left <= 0) continue;
      const int row = tile / kTilesPerPage;
      packed = kPacks && s.is_packed(row);
      keys = packed ? s.rows[row] + kv_head * a.packed.bytes()
                    : s.rows[row] + kv_head * a.page_bytes + tile % kTilesPerPage * kTokens * 2 * a.head_dim;
      position = s.first_position + tile * kTokens;
      tokens = left < kTokens ? left : kTokens;
      return;
    }
  }
};

// Starts the copy of a tile of keys or values; what is not there becomes zero.
template <int kDim>
__device__ __forceinline__ void start_tile(const std::byte* from, int tokens, int head_dim, Shared<uint32_t> tile) {
  using T = Tile<kDim>;
  const int piece = static_cast<int>(threadIdx.x) % T::kCopied;
  const int token = static_cast<int>(threadIdx.x) / T::kCopied;
  const std::byte* source = from + 2 * (token * head_dim + 8 * piece);
  if (piece < kDim / 8) {
#pragma unroll
    for (int i = 0; i < T::kTokens / T::kStep; i++) {
#pragma unroll
      for (int p = 0; p < T::kPieces; p += T::kCopied) {
        const bool there = 8 * (piece + p) < head_dim && token + i * T::kStep < tokens;
        copy_async<16>(tile, T::word(token, i * T::kStep, piece, p), there ? source + 16 * p : from, there ? 16 : 0);
      }
      source += 2 * T::kStep * head_dim;
    }
  }
  commit_copies();
}

// The same of a packed page's tokens from `first` on: their codes become the halves that they stand for, here and now.
template <int kDim, bool kPerChannel>
__device__ __forceinline__ void unpack_tile(const PackedPage& p, const std::byte* page, bool value, int first,
                                            int tokens, Shared<uint32_t> tile) {
  using T = Tile<kDim>;
  const int piece = static_cast<int>(threadIdx.x) % T::kCopied;
  const int token = static_cast<int>(threadIdx.x) / T::kCopied;
  if (piece >= kDim / 8) return;
#pragma unroll
  for (int at = 0; at < T::kPieces; at += T::kCopied) {
    const int channel = 8 * (piece + at);
    PieceScales<kPerChannel> scales;
    if constexpr (kPerChannel) {
      if (channel < p.head_dim) scales.load_channels(page, channel);
    }
#pragma unroll 4
    for (int i = 0; i < T::kTokens / T::kStep; i++) {
      const bool there = channel < p.head_dim && token + i * T::kStep < tokens;
      PackedPiece<kPerChannel> held;
      held.load(p, page, first + token + i * T::kStep, value, channel, there);
      store_words(tile, T::word(token, i * T::kStep, piece, at),
                  there ? held.halves(p.bits, scales) : uint4{0, 0, 0, 0});
    }
  }
}

// Starts the keys or values of a tile on their way. kPacks: whether there are packed pages at all.
template <int kDim, bool kPacks>
__device__ __forceinline__ void start_part(const ChunkLaunch& a, const TileCursor<Tile<kDim>::kTokens, kPacks>& from,
                                           bool value, Shared<uint32_t> tile) {
  if constexpr (kPacks) {
    if (from.packed && !value && a.packed.header_bytes > 0) {
      return unpack_tile<kDim, true>(a.packed, from.keys, value, from.first_token(), from.tokens, tile);
    }
    if (from.packed) {
      return unpack_tile<kDim, false>(a.packed, from.keys, value, from.first_token(), from.tokens, tile);
    }
  }
  start_tile<kDim>(from.keys + (value ? a.page_bytes / 2 : 0), from.tokens, a.head_dim, tile);
}

// What a warp holds of its 16 queries. Lane 4 g + t has of queries g and g + 8: their max and sum, as its three
// neighbours do, and elements 8 j + 2 t, 8 j + 2 t + 1 of the sums over values (values[j][0 .. 1] and [2 .. 3]).
template <int kDim>
struct WarpState {
  uint32_t queries[QueryTile<kDim>::kHeld][4];
  float values[kDim / 8][4];
  float max[2];
  float sum[2];
};

// A query past the last row is zero and has an empty state.
template <typename Halves, int kDim>
__device__ __forceinline__ void load_state(const ChunkLaunch& a, int kv_head, int first, int lane,
                                           Shared<uint32_t> queries, WarpState<kDim>& state) {
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
      const uint32_t pair = Halves::pack(in_head ? query[d] * a.scale : 0.0f, in_head ? query[d + 1] * a.scale : 0.0f);
      if (j / 2 < QueryTile<kDim>::kHeld) {
        state.queries[j / 2][h + 2 * (j % 2)] = pair;
      } else {
        const int row = warp_index() * kWarpQueries + lane / 4 + 8 * h;
        queries[QueryTile<kDim>::word(row, j - 2 * QueryTile<kDim>::kHeld) + lane % 4] = pair;
      }
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
__device__ __forceinline__ void score_tile(const WarpState<kDim>& state, Shared<uint32_t> queries,
                                           Shared<uint32_t> keys, int lane, Scores<kDim>& scores) {
  constexpr int kHeld = QueryTile<kDim>::kHeld;
#pragma unroll
  for (int k = 0; k < kDim / 16; k++) {
    uint32_t q[4];
    if (k < kHeld) {
#pragma unroll
      for (int i = 0; i < 4; i++) q[i] = state.queries[k][i];
    } else {
      load_matrices(q, queries,
                    QueryTile<kDim>::word(warp_index() * kWarpQueries + lane % 16, 2 * (k - kHeld) + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < Tile<kDim>::kTokens / 16; n++) {
      uint32_t b[4];  // tokens 16 n .. and 16 n + 8 .., each in two pieces
      load_matrices(b, keys, Tile<kDim>::word(lane / 16 * 8 + lane % 8, 16 * n, lane / 8 % 2, 2 * k));
      Halves::multiply(scores[2 * n], q, b[0], b[1]);
      Halves::multiply(scores[2 * n + 1], q, b[2], b[3]);
    }
  }
}

// Scores of query h of the lane's two become weights, of tokens [hidden, seen) alone. Returns what the sums so far are
// to be multiplied by.
template <int kDim>
__device__ __forceinline__ float weigh_tile(int h, int hidden, int seen, int lane, Scores<kDim>& scores,
                                            WarpState<kDim>& state) {
  float max = kNothing;
#pragma unroll
  for (int j = 0; j < Tile<kDim>::kTokens / 8; j++) {
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
  for (int j = 0; j < Tile<kDim>::kTokens / 8; j++) {
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
__device__ __forceinline__ void sum_tile(const Scores<kDim>& weights, Shared<uint32_t> values, int lane,
                                         WarpState<kDim>& state) {
#pragma unroll
  for (int k = 0; k < Tile<kDim>::kTokens / 16; k++) {
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

// Whether some row of a thread block, from `first_row` on, does not see some token of the tile.
template <int kTokens, bool kPacks>
__device__ __forceinline__ bool hides_some(const ChunkLaunch& a, const TileCursor<kTokens, kPacks>& tile, int first_row,
                                           int end) {
  return a.first_position + first_row + 1 < tile.position + tile.tokens ||
         hidden_tokens(a, end - 1 - a.first_position, tile.position) > 0;
}

// Values that are no finite numbers become zero, for zero times them, the weight of what is not seen, is no number.
// Whether there were any.
template <typename Halves, int kDim>
__device__ __forceinline__ bool clear_not_finite(Shared<uint32_t> values) {
  constexpr uint32_t kLow = Halves::kInfinity;
  constexpr uint32_t kHigh = Halves::kInfinity << 16;
  bool found = false;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Tile<kDim>::kTokens * (kDim / 8); i += kThreads) {
    const int at = Tile<kDim>::word(i / (kDim / 8), 0, i % (kDim / 8), 0);
    const uint4 piece = load_words(values, at);
    uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
    bool here = false;
#pragma unroll
    for (uint32_t& word : words) {
      const bool low = (word & kLow) == kLow;
      const bool high = (word & kHigh) == kHigh;
      word &= (low ? 0 : 0xffffu) | (high ? 0 : 0xffff0000u);
      here = here || low || high;
    }
    if (here) store_words(values, at, {words[0], words[1], words[2], words[3]});
    found = found || here;
  }
  return found;
}

// Values 8 j + 2 t, 8 j + 2 t + 1 of a token, t = lane % 4, as halves.
template <int kDim, bool kPacks>
__device__ __forceinline__ uint32_t value_pair(const ChunkLaunch& a,
                                               const TileCursor<Tile<kDim>::kTokens, kPacks>& tile, int token, int j,
                                               int lane) {
  if constexpr (kPacks) {
    if (tile.packed) {
      PackedPiece<false> piece;
      piece.load(a.packed, tile.keys, tile.first_token() + token, true, 8 * j, true);
      const uint4 halves = piece.halves(a.packed.bits, {});
      const uint32_t low = lane % 2 == 0 ? halves.x : halves.y;
      const uint32_t high = lane % 2 == 0 ? halves.z : halves.w;
      return lane % 4 < 2 ? low : high;
    }
  }
  const std::byte* values = tile.keys + a.page_bytes / 2;
  return reinterpret_cast<const uint32_t*>(values + 2 * token * a.head_dim)[4 * j + lane % 4];
}

// Adds what was cleared to the sums of query h of the lane's two, of tokens [hidden, seen).
template <typename Halves, int kDim, bool kPacks>
__device__ __forceinline__ void add_not_finite(const ChunkLaunch& a,
                                               const TileCursor<Tile<kDim>::kTokens, kPacks>& tile, int h, int hidden,
                                               int seen, int lane, WarpState<kDim>& state) {
#pragma unroll 1
  for (int token = hidden > 0 ? hidden : 0; token < seen; token++) {
#pragma unroll
    for (int j = 0; j < kDim / 8; j++) {
      if (8 * j >= a.head_dim) continue;
      const uint32_t pair = value_pair<kDim, kPacks>(a, tile, token, j, lane);
      if ((pair & Halves::kInfinity) == Halves::kInfinity) state.values[j][2 * h] += Halves::value(pair & 0xffff);
      if ((pair >> 16 & Halves::kInfinity) == Halves::kInfinity)
        state.values[j][2 * h + 1] += Halves::value(pair >> 16);
    }
  }
}

// Block (kQueries queries of a group, KV head); those that see most come first.
template <typename Halves, int kDim, bool kPacks>
__global__ void __launch_bounds__(kThreads, kDim <= 64 ? 3 : 2) attend_rows(ChunkLaunch a) {
  SPILLWAY_SHARED(uint32_t, keys, Tile<kDim>::kWords);
  SPILLWAY_SHARED(uint32_t, values, Tile<kDim>::kWords);
  SPILLWAY_SHARED(uint32_t, queries, QueryTile<kDim>::kWords);
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = lane_index();
  const int first = query_tile * kQueries + warp_index() * kWarpQueries;
  const bool has_rows = first / a.group < a.rows;
  const int first_row = query_tile * kQueries / a.group;
  const int begin = hidden_tokens(a, first_row, 0);
  const int end = end_position(a, (query_tile + 1) * kQueries);
  const int warp_end = end_position(a, first + kWarpQueries);
  WarpState<kDim> state;
  load_state<Halves>(a, kv_head, first, lane, queries, state);
  __syncwarp();  // a warp reads the queries that it wrote
  TileCursor<Tile<kDim>::kTokens, kPacks> tile;
  tile.next(a, kv_head, begin, end);
  if (tile.keys != nullptr) start_part<kDim, kPacks>(a, tile, false, keys);
  while (tile.keys != nullptr) {
    const bool sees = has_rows && warp_end > tile.position;
    Scores<kDim> scores = {};
    wait_for_copies<0>();
    __syncthreads();  // the keys are there, and the last tile's values have been read
    start_part<kDim, kPacks>(a, tile, true, values);
    if (sees) score_tile<Halves>(state, queries, keys, lane, scores);
    auto next = tile;
    next.next(a, kv_head, begin, end);
    wait_for_copies<0>();
    __syncthreads();  // the values are there, and the keys have been read
    if (next.keys != nullptr) start_part<kDim, kPacks>(a, next, false, keys);
    bool cleared = false;
    if (hides_some(a, tile, first_row, end)) {
      cleared = __syncthreads_or(clear_not_finite<Halves, kDim>(values)) != 0;  // in whatever warp
    }
    if (sees) {
      float factor[2];
      int hidden[2];
      int seen[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = (first + lane / 4 + 8 * h) / a.group;
        const int before = a.first_position + row + 1 - tile.position;
        seen[h] = before < tile.tokens ? before : tile.tokens;
        hidden[h] = hidden_tokens(a, row, tile.position);
        factor[h] = weigh_tile<kDim>(h, hidden[h], seen[h], lane, scores, state);
      }
      if (__any_sync(kAllLanes, factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
#pragma unroll
        for (int j = 0; j < kDim / 8; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) state.values[j][e] *= factor[e / 2];
        }
      }
      sum_tile<Halves, kDim>(scores, values, lane, state);
      if (cleared) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          add_not_finite<Halves, kDim, kPacks>(a, tile, h, hidden[h], seen[h], lane, state);
        }
      }
    }
    tile = next;
  }
  store_state(a, kv_head, first, lane, state);
}

template <typename Halves, bool kPacks>
cudaError_t launch_halves(cudaStream_t stream, const ChunkLaunch& a, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(ceil_div(int64_t{a.rows} * a.group, kQueries)),
                  static_cast<uint32_t>(kv_heads));
  const auto run = [&](void (*kernel)(ChunkLaunch)) { return launch(kernel, grid, dim3(kThreads), 0, stream, a); };
  if (a.head_dim <= 64) return run(attend_rows<Halves, 64, kPacks>);
  if (a.head_dim <= 96) return run(attend_rows<Halves, 96, kPacks>);
  if (a.head_dim <= 128) return run(attend_rows<Halves, 128, kPacks>);
  return run(attend_rows<Halves, kCudaMostHeadDim, kPacks>);
}

}  // namespace

cudaError_t launch_chunk_on_tensor_cores(cudaStream_t stream, DType type, const ChunkLaunch& launch, int kv_heads) {
  switch (type) {
    case DType::f16:
      if (launch.packed.bits > 0) return launch_halves<HalvesF16, true>(stream, launch, kv_heads);
      return launch_halves<HalvesF16, false>(stream, launch, kv_heads);
    case DType::bf16:
      return launch_halves<HalvesBf16, false>(stream, launch, kv_heads);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
