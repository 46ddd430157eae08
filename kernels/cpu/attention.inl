// Attention against one span, as a partial softmax state; written once over Lanes. Keys and values are fp16, all
// arithmetic is f32. A query's result depends on itself and its visible tokens alone, in ascending order.

namespace spillway {
namespace {

constexpr int kMostHeads = 16;  // of a piece of a group in attend

// c[M][C vectors] (+)= sum over j ascending of a[.][j] * b[j][.]; b has rows of any float type.
template <DType kB, int M, int C>
inline void broadcast_tile(const float* a, int64_t a_step, const std::byte* b, int64_t b_stride, int count, float* c,
                           int64_t c_step, bool fresh) {
  Lanes sums[M][C];
  for (int i = 0; i < M; i++) {
    for (int v = 0; v < C; v++) sums[i][v] = fresh ? lanes_zero() : load_f32(c + i * c_step + v * kLanes);
  }
  for (int j = 0; j < count; j++, b += b_stride) {
    Lanes row[C];
    for (int v = 0; v < C; v++) row[v] = load_lanes<kB>(b, v * kLanes);
    for (int i = 0; i < M; i++) {
      const Lanes factor = lanes_set(a[i * a_step + j]);
      for (int v = 0; v < C; v++) sums[i][v] = fma(factor, row[v], sums[i][v]);
    }
  }
  for (int i = 0; i < M; i++) {
    for (int v = 0; v < C; v++) store_f32(c + i * c_step + v * kLanes, sums[i][v]);
  }
}

template <DType kB, int C>
inline void broadcast_rows(const float* a, int64_t a_step, int rows, const std::byte* b, int64_t b_stride, int count,
                           float* c, int64_t c_step, bool fresh) {
  int i = 0;
  for (; i + kBroadcastRows <= rows; i += kBroadcastRows) {
    broadcast_tile<kB, kBroadcastRows, C>(a + i * a_step, a_step, b, b_stride, count, c + i * c_step, c_step, fresh);
  }
  a += i * a_step;
  c += i * c_step;
  switch (rows - i) {
    case 5: return broadcast_tile<kB, 5, C>(a, a_step, b, b_stride, count, c, c_step, fresh);
    case 4: return broadcast_tile<kB, 4, C>(a, a_step, b, b_stride, count, c, c_step, fresh);
    case 3: return broadcast_tile<kB, 3, C>(a, a_step, b, b_stride, count, c, c_step, fresh);
    case 2: return broadcast_tile<kB, 2, C>(a, a_step, b, b_stride, count, c, c_step, fresh);
    case 1: return broadcast_tile<kB, 1, C>(a, a_step, b, b_stride, count, c, c_step, fresh);
    default: return;
  }
}

// c [rows x cols] (+)= a [rows x count] . b [count x cols], cols a multiple of kLanes; b_stride in bytes.
template <DType kB>
void broadcast_product(const float* a, int64_t a_step, int rows, const std::byte* b, int64_t b_stride, int count, float* c,
                       int64_t c_step, int64_t cols, bool fresh) {
  constexpr int kElement = kB == DType::f32 ? 4 : 2;
  int64_t v = 0;
  for (; v + kBroadcastCols * kLanes <= cols; v += kBroadcastCols * kLanes) {
    broadcast_rows<kB, kBroadcastCols>(a, a_step, rows, b + v * kElement, b_stride, count, c + v, c_step, fresh);
  }
  for (; v < cols; v += kLanes) {
    broadcast_rows<kB, 1>(a, a_step, rows, b + v * kElement, b_stride, count, c + v, c_step, fresh);
  }
}

// rows [count x head_dim] f16 -> out [count x padded] f32, zero padded.
inline void widen(const std::byte* rows, int count, int head_dim, float* out) {
  const int64_t padded = padded_head(head_dim);
  for (int j = 0; j < count; j++, rows += 2 * head_dim, out += padded) {
    int c = 0;
    for (; c + kLanes <= head_dim; c += kLanes) store_f32(out + c, load_f16(rows + 2 * c));
    if (c < head_dim) store_f32(out + c, load_f16_part(rows + 2 * c, head_dim - c));
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
    const Lanes p = exp_of(sub(load_f32(scores + t), shift));
    store_f32(scores + t, p);
    total = add(total, p);
  }
  if (t < tokens) {
    const Lanes p = keep_first(exp_of(sub(load_f32_part(scores + t, tokens - t), shift)), tokens - t, 0.0f);
    store_f32_part(scores + t, p, tokens - t);
    total = add(total, p);
  }
  *sum = sum_of(total);
}

inline void store_head(float* out, const float* padded, int head_dim) {
  int c = 0;
  for (; c + kLanes <= head_dim; c += kLanes) store_f32(out + c, load_f32(padded + c));
  if (c < head_dim) store_f32_part(out + c, load_f32(padded + c), head_dim - c);
}

// Scores of up to 16 tokens of widened keys for one query.
inline Lanes dot_16(const float* q, const float* keys, int64_t padded) {
  Lanes sums[kLanes];
  for (int j0 = 0; j0 < kLanes; j0 += kDotRows) {
    Lanes part[kDotRows];
    for (int j = 0; j < kDotRows; j++) part[j] = lanes_zero();
    for (int64_t c = 0; c < padded; c += kLanes) {
      const Lanes query = load_f32(q + c);
      for (int j = 0; j < kDotRows; j++) part[j] = fma(query, load_f32(keys + (j0 + j) * padded + c), part[j]);
    }
    for (int j = 0; j < kDotRows; j++) sums[j0 + j] = part[j];
  }
  return sums_of(sums);
}

struct AttendBuffers {
  alignas(64) float q[kMostHeads * kMostHeadDim];
  alignas(64) float sums[kMostHeads * kMostHeadDim];
  alignas(64) float scores[kMostHeads * kSpanTokens];
  alignas(64) float keys[kLanes * kMostHeadDim];
};

inline void attend_piece(const SpanAttention& a, int heads, const float* q, float* states) {
  AttendBuffers s;
  const int64_t padded = padded_head(a.head_dim);
  const int64_t page_k_bytes = int64_t{2} * kPageTokens * a.head_dim;
  const int tokens = a.span->tokens;
  for (int h = 0; h < heads; h++) {
    int c = 0;
    for (; c + kLanes <= a.head_dim; c += kLanes) store_f32(s.q + h * padded + c, load_f32(q + h * a.head_dim + c));
    if (c < a.head_dim) store_f32(s.q + h * padded + c, load_f32_part(q + h * a.head_dim + c, a.head_dim - c));
  }
  for (int64_t i = 0; i < heads * padded; i += kLanes) store_f32(s.sums + i, lanes_zero());
  for (int t = 0; t < tokens; t += kLanes) {
    const std::byte* keys = a.span->rows[t / kPageTokens] + a.head_offset + int64_t{2} * (t % kPageTokens) * a.head_dim;
    const int count = tokens - t < kLanes ? tokens - t : kLanes;
    widen(keys, count, a.head_dim, s.keys);
    for (int64_t i = count * padded; i < kLanes * padded; i += kLanes) store_f32(s.keys + i, lanes_zero());
    for (int h = 0; h < heads; h++) store_f32(s.scores + h * kSpanTokens + t, dot_16(s.q + h * padded, s.keys, padded));
  }
  float largest[kMostHeads];
  float total[kMostHeads];
  for (int h = 0; h < heads; h++) softmax_part(s.scores + h * kSpanTokens, tokens, a.scale, &largest[h], &total[h]);
  for (int t = 0; t < tokens; t += kPageTokens) {
    const std::byte* values = a.span->rows[t / kPageTokens] + a.head_offset + page_k_bytes;
    const int count = tokens - t < kPageTokens ? tokens - t : kPageTokens;
    if (a.head_dim % kLanes == 0) {
      broadcast_product<DType::f16>(s.scores + t, kSpanTokens, heads, values, 2 * a.head_dim, count, s.sums, padded, padded, false);
      continue;
    }
    for (int j = 0; j < count; j += kLanes) {  // odd head sizes: widened first, so that no load passes the page's end
      const int left = count - j < kLanes ? count - j : kLanes;
      widen(values + int64_t{2} * j * a.head_dim, left, a.head_dim, s.keys);
      broadcast_product<DType::f32>(s.scores + t + j, kSpanTokens, heads, reinterpret_cast<const std::byte*>(s.keys),
                                    4 * padded, left, s.sums, padded, padded, false);
    }
  }
  for (int h = 0; h < heads; h++, states += attn_state_floats(a.head_dim)) {
    store_head(states, s.sums + h * padded, a.head_dim);
    states[a.head_dim] = largest[h];
    states[a.head_dim + 1] = total[h];
  }
}

void attend(const SpanAttention& a) {
  for (int h = 0; h < a.heads; h += kMostHeads) {
    const int heads = a.heads - h < kMostHeads ? a.heads - h : kMostHeads;
    attend_piece(a, heads, a.q + int64_t{h} * a.head_dim, a.states + int64_t{h} * (a.head_dim + 2));
  }
}

// Folds a partial state (padded sums) into a running one.
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
    store_f32_part(state + c, fma(load_f32(sums + c), lanes_set(take), mul(load_f32_part(state + c, n), lanes_set(keep))), n);
  }
  state[head_dim + 1] = fma1(total, take, state[head_dim + 1] * keep);
  state[head_dim] = most;
}

// keys [tokens x head_dim] f16 -> out [padded x kPageTokens] f32, zero where there is no token.
inline void transpose_keys(const std::byte* keys, int tokens, int head_dim, float* out) {
  for (int t = 0; t < kPageTokens; t += kLanes) {
    for (int c = 0; c < head_dim; c += kLanes) {
      Lanes tile[kLanes];
      for (int j = 0; j < kLanes; j++) {
        const std::byte* key = keys + int64_t{2} * ((t + j) * head_dim + c);
        tile[j] = t + j >= tokens ? lanes_zero() : c + kLanes <= head_dim ? load_f16(key) : load_f16_part(key, head_dim - c);
      }
      transpose(tile);
      for (int i = 0; i < kLanes; i++) store_f32(out + (c + i) * kPageTokens + t, tile[i]);
    }
  }
}

struct ChunkScratch {
  float* q;       // [queries x padded]
  float* scores;  // [queries x kSpanTokens]
  float* sums;    // [queries x padded]
  float* keys;    // [padded x kPageTokens]
  float* values;  // [kPageTokens x padded]
  float* largest;
  float* total;
};

inline int visible_tokens(const ChunkAttention& a, const KvSpan& span, int row) {
  const int64_t seen = int64_t{a.first_position} + row - span.first_position + 1;
  return seen < 0 ? 0 : seen > span.tokens ? span.tokens : static_cast<int>(seen);
}

inline void chunk_scores(const ChunkAttention& a, const KvSpan& span, int queries, const ChunkScratch& s) {
  const int64_t padded = padded_head(a.head_dim);
  const int most = visible_tokens(a, span, a.rows - 1);
  for (int t = 0; t < most; t += kPageTokens) {
    const int tokens = span.tokens - t < kPageTokens ? span.tokens - t : kPageTokens;
    transpose_keys(span.rows[t / kPageTokens] + a.head_offset, tokens, a.head_dim, s.keys);
    int row = 0;
    while (visible_tokens(a, span, row) <= t) row++;  // ends: the last row sees more than t
    const int first = row * a.heads;
    broadcast_product<DType::f32>(s.q + first * padded, padded, queries - first, reinterpret_cast<const std::byte*>(s.keys),
                                  4 * kPageTokens, a.head_dim, s.scores + first * int64_t{kSpanTokens} + t, kSpanTokens,
                                  kPageTokens, true);
  }
}

inline void chunk_values(const ChunkAttention& a, const KvSpan& span, int queries, const ChunkScratch& s) {
  const int64_t padded = padded_head(a.head_dim);
  const int most = visible_tokens(a, span, a.rows - 1);
  for (int64_t i = 0; i < queries * padded; i += kLanes) store_f32(s.sums + i, lanes_zero());
  for (int t = 0; t < most; t += kPageTokens) {
    const int tokens = span.tokens - t < kPageTokens ? span.tokens - t : kPageTokens;
    widen(span.rows[t / kPageTokens] + a.head_offset + int64_t{2} * kPageTokens * a.head_dim, tokens, a.head_dim, s.values);
    for (int row = 0; row < a.rows;) {  // rows that see the same part of the page go together
      int seen = visible_tokens(a, span, row) - t;
      seen = seen < 0 ? 0 : seen > tokens ? tokens : seen;
      int end = row + 1;
      while (end < a.rows && (visible_tokens(a, span, end) - t == seen || (seen == tokens))) end++;
      if (seen > 0) {
        const int64_t first = int64_t{row} * a.heads;
        broadcast_product<DType::f32>(s.scores + first * kSpanTokens + t, kSpanTokens, (end - row) * a.heads,
                                      reinterpret_cast<const std::byte*>(s.values), 4 * padded, seen,
                                      s.sums + first * padded, padded, padded, false);
      }
      row = end;
    }
  }
}

inline void chunk_span(const ChunkAttention& a, const KvSpan& span, const ChunkScratch& s) {
  const int queries = a.rows * a.heads;
  const int64_t padded = padded_head(a.head_dim);
  chunk_scores(a, span, queries, s);
  for (int i = 0; i < queries; i++) {
    const int seen = visible_tokens(a, span, i / a.heads);
    if (seen > 0) softmax_part(s.scores + i * int64_t{kSpanTokens}, seen, a.scale, &s.largest[i], &s.total[i]);
  }
  chunk_values(a, span, queries, s);
  for (int i = 0; i < queries; i++) {
    const int row = i / a.heads;
    if (visible_tokens(a, span, row) == 0) continue;
    float* state = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.states) + row * a.states_stride) +
                   (i % a.heads) * attn_state_floats(a.head_dim);
    fold_state(state, a.head_dim, s.sums + i * padded, s.largest[i], s.total[i]);
  }
}

void attend_chunk(const ChunkAttention& a) {
  const int64_t padded = padded_head(a.head_dim);
  ChunkScratch s;
  s.q = a.scratch;
  s.scores = s.q + kChunkQueries * padded;
  s.sums = s.scores + kChunkQueries * kSpanTokens;
  s.keys = s.sums + kChunkQueries * padded;
  s.values = s.keys + kPageTokens * padded;
  s.largest = s.values + kPageTokens * padded;
  s.total = s.largest + kChunkQueries;
  for (int i = 0; i < a.rows * a.heads; i++) {
    const int row = i / a.heads;
    const float* q = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(a.q) + row * a.q_stride) +
                     (i % a.heads) * a.head_dim;
    for (int c = 0; c < a.head_dim; c++) s.q[i * padded + c] = q[c];
    if (!a.fresh) continue;
    float* state = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.states) + row * a.states_stride) +
                   (i % a.heads) * attn_state_floats(a.head_dim);
    for (int c = 0; c < attn_state_floats(a.head_dim); c++) state[c] = 0.0f;
    state[a.head_dim] = -__builtin_inff();
  }
  for (int64_t i = 0; i < a.span_count; i++) {
    if (visible_tokens(a, a.spans[i], a.rows - 1) > 0) chunk_span(a, a.spans[i], s);
  }
}

void merge(const float* states, uint64_t stride, int count, int head_dim, float* out) {
  const auto state = [&](int i) {
    return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(states) + i * stride);
  };
  float most = -__builtin_inff();
  for (int i = 0; i < count; i++) most = state(i)[head_dim] > most ? state(i)[head_dim] : most;
  alignas(64) float sums[kMostHeadDim] = {};
  float total = 0.0f;
  for (int i = 0; i < count; i++) {
    const float* s = state(i);
    if (s[head_dim] == -__builtin_inff()) continue;
    const float weight = exp_one(s[head_dim] - most);
    const Lanes factor = lanes_set(weight);
    int c = 0;
    for (; c + kLanes <= head_dim; c += kLanes) store_f32(sums + c, fma(load_f32(s + c), factor, load_f32(sums + c)));
    if (c < head_dim) store_f32(sums + c, fma(load_f32_part(s + c, head_dim - c), factor, load_f32(sums + c)));
    total = fma1(s[head_dim + 1], weight, total);
  }
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
  for (int64_t c = 0; c < padded_head(head_dim); c += kLanes) store_f32(sums + c, mul(load_f32(sums + c), lanes_set(inverse)));
  store_head(out, sums, head_dim);
}

}  // namespace
}  // namespace spillway
