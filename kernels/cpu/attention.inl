// Attention against one span, as a partial softmax state; written once over Lanes. Keys and values are f16 (Kv is
// uint16_t) or f32 (Kv is float), all arithmetic is f32. A query's result depends on itself and its visible tokens
// alone, in ascending order.

namespace spillway {
namespace {

inline Lanes load_as(const float* p) { return load_f32(p); }
inline Lanes load_as(const uint16_t* p) { return load_f16(p); }
inline Lanes load_part_as(const float* p, int n) { return load_f32_part(p, n); }
inline Lanes load_part_as(const uint16_t* p, int n) { return load_f16_part(p, n); }
// 16 rows of 16 elements, `stride` elements apart -> out[c] = element c of every row.
inline void transpose_as(const float* rows, int64_t stride, Lanes (&out)[kLanes]) {
  transpose_f32(reinterpret_cast<const std::byte*>(rows), 4 * stride, out);
}
inline void transpose_as(const uint16_t* rows, int64_t stride, Lanes (&out)[kLanes]) {
  transpose_f16(reinterpret_cast<const std::byte*>(rows), 2 * stride, out);
}

// c[M][C vectors] (+)= sum over j ascending of a[.][j] * b[j][.]; b is float, or f16 as uint16_t.
template <int M, int C, typename B>
inline void broadcast_tile(const float* a, int64_t a_step, const B* b, int64_t b_step, int count, float* c,
                           int64_t c_step, bool fresh) {
  Lanes sums[M][C];
  for (int i = 0; i < M; i++) {
    for (int v = 0; v < C; v++) sums[i][v] = fresh ? lanes_zero() : load_f32(c + i * c_step + v * kLanes);
  }
  for (int j = 0; j < count; j++, b += b_step) {
    Lanes row[C];
    for (int v = 0; v < C; v++) row[v] = load_as(b + v * kLanes);
    for (int i = 0; i < M; i++) {
      const Lanes factor = lanes_set(a[i * a_step + j]);
      for (int v = 0; v < C; v++) sums[i][v] = fma(factor, row[v], sums[i][v]);
    }
  }
  for (int i = 0; i < M; i++) {
    for (int v = 0; v < C; v++) store_f32(c + i * c_step + v * kLanes, sums[i][v]);
  }
}

template <int C, typename B>
inline void broadcast_rows(const float* a, int64_t a_step, int rows, const B* b, int64_t b_step, int count, float* c,
                           int64_t c_step, bool fresh) {
  int i = 0;
  for (; i + kBroadcastRows <= rows; i += kBroadcastRows) {
    broadcast_tile<kBroadcastRows, C>(a + i * a_step, a_step, b, b_step, count, c + i * c_step, c_step, fresh);
  }
  a += i * a_step;
  c += i * c_step;
  switch (rows - i) {
    case 5:
      return broadcast_tile<5, C>(a, a_step, b, b_step, count, c, c_step, fresh);
    case 4:
      return broadcast_tile<4, C>(a, a_step, b, b_step, count, c, c_step, fresh);
    case 3:
      return broadcast_tile<3, C>(a, a_step, b, b_step, count, c, c_step, fresh);
    case 2:
      return broadcast_tile<2, C>(a, a_step, b, b_step, count, c, c_step, fresh);
    case 1:
      return broadcast_tile<1, C>(a, a_step, b, b_step, count, c, c_step, fresh);
    default:
      return;
  }
}

// c [rows x cols] (+)= a [rows x count] . b [count x cols], cols a multiple of kLanes.
template <typename B>
inline void broadcast_product(const float* a, int64_t a_step, int rows, const B* b, int64_t b_step, int count, float* c,
                              int64_t c_step, int64_t cols, bool fresh) {
  int64_t v = 0;
  for (; v + kBroadcastCols * kLanes <= cols; v += kBroadcastCols * kLanes) {
    broadcast_rows<kBroadcastCols>(a, a_step, rows, b + v, b_step, count, c + v, c_step, fresh);
  }
  for (; v < cols; v += kLanes) broadcast_rows<1>(a, a_step, rows, b + v, b_step, count, c + v, c_step, fresh);
}

// Bytes of one token's keys or values, and from a page's keys to its values.
template <typename Kv>
constexpr int token_bytes(int head_dim) {
  return static_cast<int>(sizeof(Kv)) * head_dim;
}
template <typename Kv>
constexpr int64_t page_values(int head_dim) {
  return int64_t{kPageTokens} * token_bytes<Kv>(head_dim);
}

// Asks for the bytes at `ahead` that correspond to row j of the page being read.
inline void ask_ahead(const std::byte* ahead, int j, int row_bytes) {
  for (int at = 0; at < row_bytes; at += 64) __builtin_prefetch(ahead + j * row_bytes + at, 0, 2);
}

// rows [count x head_dim] -> out [count x padded] f32, zero padded.
template <typename Kv>
inline void widen(const Kv* rows, int count, int head_dim, const std::byte* ahead, float* out) {
  const int64_t padded = padded_head(head_dim);
  for (int j = 0; j < count; j++, rows += head_dim, out += padded) {
    ask_ahead(ahead, j, token_bytes<Kv>(head_dim));
    int c = 0;
    for (; c + kLanes <= head_dim; c += kLanes) store_f32(out + c, load_as(rows + c));
    if (c < head_dim) store_f32(out + c, load_part_as(rows + c, head_dim - c));
  }
}

// rows [count x head_dim] -> out [padded x kPageTokens] f32, zero where there is no token.
template <typename Kv>
inline void transpose_page(const Kv* rows, int count, int head_dim, const std::byte* ahead, float* out) {
  for (int t = 0; t < kPageTokens; t += kLanes) {
    for (int j = t; j < t + kLanes; j++) ask_ahead(ahead, j, token_bytes<Kv>(head_dim));
    for (int c = 0; c < head_dim; c += kLanes) {
      const Kv* corner = rows + int64_t{t} * head_dim + c;
      int64_t stride = head_dim;
      Kv edge[kLanes * kLanes];
      if (t + kLanes > count || c + kLanes > head_dim) {  // no load may pass the tokens that are there
        __builtin_memset(edge, 0, sizeof edge);
        const size_t bytes = sizeof(Kv) * static_cast<size_t>(head_dim - c < kLanes ? head_dim - c : kLanes);
        for (int j = 0; j < kLanes && t + j < count; j++)
          __builtin_memcpy(edge + j * kLanes, corner + j * stride, bytes);
        corner = edge;
        stride = kLanes;
      }
      Lanes tile[kLanes];
      transpose_as(corner, stride, tile);
      for (int i = 0; i < kLanes; i++) store_f32(out + (c + i) * kPageTokens + t, tile[i]);
    }
  }
}

// scores [tokens] -> exp(scale * score - largest); returns the largest and the sum.
inline void softmax_part(float* scores, int tokens, float scale, float* largest, float* sum) {
  const Lanes factor = lanes_set(scale);
  Lanes most = lanes_set(-__builtin_inff());
  int t = 0;
  for (; t + kLanes <= tokens; t += kLanes) {
    const Lanes s = mul(load_f32(scores + t), factor);
    store_f32(scores + t, s);
    most = max(most, s);
  }
  if (t < tokens) {
    const Lanes s = mul(load_f32_part(scores + t, tokens - t), factor);
    store_f32_part(scores + t, s, tokens - t);
    most = max(most, keep_first(s, tokens - t, -__builtin_inff()));
  }
  *largest = max_of(most);
  const Lanes shift = lanes_set(*largest);
  Lanes total = lanes_zero();
  for (t = 0; t + kLanes <= tokens; t += kLanes) {
    const Lanes p = exp_up_to_88(sub(load_f32(scores + t), shift));
    store_f32(scores + t, p);
    total = add(total, p);
  }
  if (t < tokens) {
    const Lanes p = keep_first(exp_up_to_88(sub(load_f32_part(scores + t, tokens - t), shift)), tokens - t, 0.0f);
    store_f32_part(scores + t, p, tokens - t);
    total = add(total, p);
  }
  *sum = sum_of(total);
}

// What a tile of queries (row-major: all heads of a row, then the next row) has against one span.
struct TileScratch {
  float* q;       // [queries x padded]
  float* scores;  // [queries x kSpanTokens]
  float* sums;    // [queries x padded]
  float* keys;    // [padded x kPageTokens]
  float* values;  // [kPageTokens x padded]
  float* largest;
  float* total;
};

inline TileScratch lay_out(const AttentionTile& a) {
  const int64_t padded = padded_head(a.head_dim);
  TileScratch s;
  s.q = a.scratch;
  s.scores = s.q + kTileQueries * padded;
  s.sums = s.scores + kTileQueries * kSpanTokens;
  s.keys = s.sums + kTileQueries * padded;
  s.values = s.keys + kPageTokens * padded;
  s.largest = s.values + kPageTokens * padded;
  s.total = s.largest + kTileQueries;
  for (int i = 0; i < a.rows * a.heads; i++) {
    const float* q =
        reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(a.q) + i / a.heads * a.q_stride) +
        i % a.heads * a.head_dim;
    for (int c = 0; c < a.head_dim; c++) s.q[i * padded + c] = q[c];
  }
  return s;
}

inline float* state_of(const AttentionTile& a, int query) {
  return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.states) + query / a.heads * a.states_stride) +
         query % a.heads * attn_state_floats(a.head_dim);
}

inline int visible_tokens(const AttentionTile& a, const KvSpan& span, int row) {
  const int64_t seen = int64_t{a.first_position} + row - span.first_position + 1;
  return seen < 0 ? 0 : seen > span.tokens ? span.tokens : static_cast<int>(seen);
}

// Tokens of the span that have left the row's window.
inline int hidden_tokens(const AttentionTile& a, const KvSpan& span, int row) {
  if (a.window == 0) return 0;
  const int64_t hidden = int64_t{a.first_position} + row - a.window + 1 - span.first_position;
  return hidden < 0 ? 0 : hidden > span.tokens ? span.tokens : static_cast<int>(hidden);
}

inline bool sees_any(const AttentionTile& a, const KvSpan& span, int row) {
  return visible_tokens(a, span, row) > hidden_tokens(a, span, row);
}

// The first page that any row of the tile sees.
inline int first_page(const AttentionTile& a, const KvSpan& span) {
  return hidden_tokens(a, span, 0) / kPageTokens * kPageTokens;
}

inline bool is_packed(const KvSpan& span, int token) { return (span.packed >> token / kPageTokens & 1) != 0; }

// Asks for a granule's keys or values: no two of them lie side by side, and nothing else foresees the next.
inline void ask_for_granule(const AttentionTile& a, const GranulePlace& place, bool value) {
  if (place.packed != 0) {
    ask_ahead(place.keys, 0, a.packed.granule_bytes);
  } else {
    ask_ahead(value ? place.values : place.keys, 0, a.granule_tokens * 2 * a.head_dim);
  }
}

// Chosen granules, side by side in half precision: keys or values of up to kPageTokens tokens from `token` on. With
// each of them one is asked for that is read a page later; after the last keys, of the first values.
inline void gather_granules(const AttentionTile& a, const KvSpan& span, int token, bool value, std::byte* out) {
  const int tokens = span.tokens - token < kPageTokens ? span.tokens - token : kPageTokens;
  const int next = token + kPageTokens < span.tokens ? token + kPageTokens : value ? span.tokens : 0;
  const bool next_value = value || next == 0;
  for (int t = 0; t < tokens; t += a.granule_tokens) {
    const GranulePlace& place = a.places[(token + t) / a.granule_tokens];
    if (next + t < span.tokens) ask_for_granule(a, a.places[(next + t) / a.granule_tokens], next_value);
    const int count = tokens - t < a.granule_tokens ? tokens - t : a.granule_tokens;
    std::byte* to = out + int64_t{2} * t * a.head_dim;
    if (place.packed != 0) {
      unpack(a.packed, place.values, place.keys - a.packed.header_bytes, value, count, to);
    } else {
      __builtin_memcpy(to, value ? place.values : place.keys, 2 * static_cast<size_t>(count * a.head_dim));
    }
  }
}

// Where the keys or values of the page that begins with `token` lie, where it is neither packed nor of granules.
template <typename Kv>
inline const std::byte* stored_at(const AttentionTile& a, const KvSpan& span, int token, bool value) {
  return span.rows[token / kPageTokens] + a.head_offset + (value ? page_values<Kv>(a.head_dim) : 0);
}

// Keys or values of the page that begins with `token`. Those of a packed page, or of chosen granules, lie in half
// precision in the place of the others of the two, until these are wanted.
template <typename Kv>
inline const Kv* elements_of(const AttentionTile& a, const KvSpan& span, int token, bool value, const TileScratch& s) {
  if constexpr (sizeof(Kv) == sizeof(uint16_t)) {
    auto* halves = reinterpret_cast<std::byte*>(value ? s.keys : s.values);
    if (a.places != nullptr) {
      gather_granules(a, span, token, value, halves);
      return reinterpret_cast<const Kv*>(halves);
    }
    if (is_packed(span, token)) {
      const std::byte* page = span.rows[token / kPageTokens] + a.packed_head_offset;
      unpack(a.packed, page, page, value, kPageTokens, halves);
      return reinterpret_cast<const Kv*>(halves);
    }
  }
  return reinterpret_cast<const Kv*>(stored_at<Kv>(a, span, token, value));
}

// What is read next, the keys or values of the page that begins with `token`; where it is to be unpacked or gathered,
// what is at hand.
template <typename Kv>
inline const std::byte* asked_for(const AttentionTile& a, const KvSpan& span, int token, bool value,
                                  const Kv* at_hand) {
  if (a.places != nullptr || is_packed(span, token)) return reinterpret_cast<const std::byte*>(at_hand);
  return stored_at<Kv>(a, span, token, value);
}

template <typename Kv>
inline void tile_scores(const AttentionTile& a, const KvSpan& span, const TileScratch& s) {
  const int64_t padded = padded_head(a.head_dim);
  const int most = visible_tokens(a, span, a.rows - 1);
  for (int t = first_page(a, span); t < most; t += kPageTokens) {
    const int tokens = span.tokens - t < kPageTokens ? span.tokens - t : kPageTokens;
    const bool last = t + kPageTokens >= most;
    const Kv* keys = elements_of<Kv>(a, span, t, false, s);
    transpose_page(keys, tokens, a.head_dim, asked_for(a, span, last ? 0 : t + kPageTokens, last, keys), s.keys);
    int row = 0;
    while (visible_tokens(a, span, row) <= t) row++;  // ends: the last row sees more than t
    const int64_t first = int64_t{row} * a.heads;
    broadcast_product(s.q + first * padded, padded, (a.rows - row) * a.heads, s.keys, kPageTokens, a.head_dim,
                      s.scores + first * kSpanTokens + t, kSpanTokens, kPageTokens, true);
  }
}

// The tokens of the page that begins with token t of the span that a row sees, counted from t.
struct SeenPart {
  int first;
  int end;
  bool operator==(const SeenPart&) const = default;
};

inline SeenPart seen_part(const AttentionTile& a, const KvSpan& span, int row, int t, int tokens) {
  const auto in_page = [&](int token) { return token < t ? 0 : token > t + tokens ? tokens : token - t; };
  return {in_page(hidden_tokens(a, span, row)), in_page(visible_tokens(a, span, row))};
}

template <typename Kv>
inline void tile_values(const AttentionTile& a, const KvSpan& span, const TileScratch& s) {
  const int64_t padded = padded_head(a.head_dim);
  const int most = visible_tokens(a, span, a.rows - 1);
  for (int64_t i = 0; i < a.rows * a.heads * padded; i += kLanes) store_f32(s.sums + i, lanes_zero());
  for (int t = first_page(a, span); t < most; t += kPageTokens) {
    const int tokens = span.tokens - t < kPageTokens ? span.tokens - t : kPageTokens;
    const int next = t + kPageTokens < most ? t + kPageTokens : t;
    const Kv* values = elements_of<Kv>(a, span, t, true, s);
    const std::byte* ahead = asked_for(a, span, next, true, values);
    if (a.rows == 1 && a.head_dim % kLanes == 0) {  // read once: widened on the way
      const SeenPart seen = seen_part(a, span, 0, t, tokens);
      for (int j = seen.first; j < seen.end; j += kLanes) {
        const int count = seen.end - j < kLanes ? seen.end - j : kLanes;
        for (int i = j; i < j + count; i++) ask_ahead(ahead, i, token_bytes<Kv>(a.head_dim));
        broadcast_product(s.scores + t + j, kSpanTokens, a.heads, values + int64_t{j} * a.head_dim, a.head_dim, count,
                          s.sums, padded, padded, false);
      }
      continue;
    }
    widen(values, tokens, a.head_dim, ahead, s.values);
    for (int row = 0; row < a.rows;) {  // rows that see the same part of the page go together
      const SeenPart seen = seen_part(a, span, row, t, tokens);
      int end = row + 1;
      while (end < a.rows && seen_part(a, span, end, t, tokens) == seen) end++;
      const int64_t first = int64_t{row} * a.heads;
      if (seen.first < seen.end) {
        broadcast_product(s.scores + first * kSpanTokens + t + seen.first, kSpanTokens, (end - row) * a.heads,
                          s.values + seen.first * padded, padded, seen.end - seen.first, s.sums + first * padded,
                          padded, padded, false);
      }
      row = end;
    }
  }
}

// sums, largest and total of every query that sees any of the span.
template <typename Kv>
inline void tile_span(const AttentionTile& a, const KvSpan& span, const TileScratch& s) {
  tile_scores<Kv>(a, span, s);
  for (int i = 0; i < a.rows * a.heads; i++) {
    const int row = i / a.heads, hidden = hidden_tokens(a, span, row);
    const int seen = visible_tokens(a, span, row) - hidden;
    float* scores = s.scores + i * int64_t{kSpanTokens};
    if (seen > 0) softmax_part(scores + hidden, seen, a.scale, &s.largest[i], &s.total[i]);
  }
  tile_values<Kv>(a, span, s);
}

inline void clear_state(float* state, int head_dim) {
  for (int c = 0; c < head_dim; c++) state[c] = 0.0f;
  state[head_dim] = -__builtin_inff();
  state[head_dim + 1] = 0.0f;
}

// Folds a partial state into a running one. Prefill folds span by span, merge() folds the spans' states: the same
// steps.
inline void fold_state(float* state, int head_dim, const float* sums, float largest, float total) {
  const float before = state[head_dim];
  const float most = before > largest ? before : largest;
  const float keep = before == -__builtin_inff() ? 0.0f : exp_one(before - most);
  const float take = exp_one(largest - most);
  int c = 0;
  for (; c + kLanes <= head_dim; c += kLanes) {
    store_f32(state + c, fma(load_f32(sums + c), lanes_set(take), mul(load_f32(state + c), lanes_set(keep))));
  }
  if (c < head_dim) {
    const int n = head_dim - c;
    const Lanes kept = mul(load_f32_part(state + c, n), lanes_set(keep));
    store_f32_part(state + c, fma(load_f32_part(sums + c, n), lanes_set(take), kept), n);
  }
  state[head_dim + 1] = fma1(total, take, state[head_dim + 1] * keep);
  state[head_dim] = most;
}

template <typename Kv>
void attend_of(const AttentionTile& a) {
  const TileScratch s = lay_out(a);
  const bool any = sees_any(a, *a.spans, 0);
  if (any) tile_span<Kv>(a, *a.spans, s);
  for (int i = 0; i < a.heads; i++) {
    float* state = state_of(a, i);
    clear_state(state, a.head_dim);
    if (any) fold_state(state, a.head_dim, s.sums + i * padded_head(a.head_dim), s.largest[i], s.total[i]);
  }
}

template <typename Kv>
void attend_chunk_of(const AttentionTile& a) {
  const TileScratch s = lay_out(a);
  const int queries = a.rows * a.heads;
  for (int i = 0; i < queries && a.fresh; i++) clear_state(state_of(a, i), a.head_dim);
  for (int64_t n = 0; n < a.span_count; n++) {
    const KvSpan& span = a.spans[n];
    // Rows see later tokens one after the other: the first row's window reaches furthest back.
    if (visible_tokens(a, span, a.rows - 1) <= hidden_tokens(a, span, 0)) continue;
    tile_span<Kv>(a, span, s);
    for (int i = 0; i < queries; i++) {
      if (!sees_any(a, span, i / a.heads)) continue;
      fold_state(state_of(a, i), a.head_dim, s.sums + i * padded_head(a.head_dim), s.largest[i], s.total[i]);
    }
  }
}

// One row against all of one span; the state is stored.
void attend(const AttentionTile& a) { a.dtype == DType::f32 ? attend_of<float>(a) : attend_of<uint16_t>(a); }

void attend_chunk(const AttentionTile& a) {
  a.dtype == DType::f32 ? attend_chunk_of<float>(a) : attend_chunk_of<uint16_t>(a);
}

void merge(const float* states, uint64_t stride, int count, int head_dim, float* out) {
  alignas(64) float state[kMostHeadDim + 2];
  clear_state(state, head_dim);
  for (int i = 0; i < count; i++) {
    const float* s = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(states) + i * stride);
    if (s[head_dim] != -__builtin_inff()) fold_state(state, head_dim, s, s[head_dim], s[head_dim + 1]);
  }
  const float total = state[head_dim + 1];
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
  for (int c = 0; c < head_dim; c++) out[c] = state[c] * inverse;
}

}  // namespace
}  // namespace spillway
