// Partial keys (kernels/selection.h) against the partial queries of a group, a page at a time; written once over Lanes.
// Codes are multiplied as they are: a token's scale and minimum come in once for each score.

namespace spillway {
namespace {

inline float* row_of(const KeyScores& a, int head) {
  return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.scratch) + head * a.stride);
}

// Scores of kLanes tokens from `token` on for M heads, without their scale; codes as they are.
template <int kBits, int M>
inline void score_tokens(const KeyScores& a, int head, int token) {
  constexpr int kOfWord = 32 / kBits;
  const float* queries[M];
  Lanes sums[M];
  for (int i = 0; i < M; i++) {
    queries[i] = row_of(a, head + i);
    sums[i] = lanes_zero();
  }
  const std::byte* words = a.page + 4 * token;
  const int count = a.rank / kOfWord;
  for (int w = 0; w < count; w++) {
    const WordLanes word = load_words(words + int64_t{4} * kPageTokens * w);
#pragma GCC unroll 8
    for (int e = 0; e < kOfWord; e++) {
      const Lanes element = element_of<kBits>(word, e);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) sums[i] = fma(element, lanes_set(queries[i][w * kOfWord + e]), sums[i]);
    }
  }
  for (int i = 0; i < M; i++) store_f32(row_of(a, head + i) + a.scores + token, sums[i]);
}

template <int kBits, int M = kScoreHeads>
inline void score_heads(const KeyScores& a, int head, int heads) {
  if constexpr (M > 1) {
    if (heads < M) return score_heads<kBits, M - 1>(a, head, heads);
  }
  for (int t = 0; t < a.tokens; t += kLanes) score_tokens<kBits, M>(a, head, t);
}

template <int kBits>
void score_page_of(const KeyScores& a) {
  for (int head = 0; head < a.heads; head += kScoreHeads) score_heads<kBits>(a, head, a.heads - head);
  const std::byte* groups = a.page + kPageTokens * a.rank * kBits / 8;
  for (int h = 0; h < a.heads; h++) {
    float* row = row_of(a, h);
    float* scores = row + a.scores;
    if constexpr (kBits < 16) {
      Lanes sums = lanes_zero();
      for (int j = 0; j < a.rank; j += kLanes) sums = add(sums, load_f32_part(row + j, lanes_left(a.rank - j)));
      const Lanes sum = lanes_set(sum_of(sums));
      for (int t = 0; t < a.tokens; t += kLanes) {
        const WordLanes group = load_words(groups + 4 * t);  // GroupScale: a scale, then a minimum
        const Lanes minimum = mul(element_of<16>(group, 1), sum);
        store_f32(scores + t, fma(load_f32(scores + t), element_of<16>(group, 0), minimum));
      }
    }
    softmax_part(scores, a.tokens, a.scale, row + a.largest, row + a.largest + 1);
  }
}

void score_page(const KeyScores& a) {
  switch (a.bits) {
    case 4:
      return score_page_of<4>(a);
    case 8:
      return score_page_of<8>(a);
    default:
      return score_page_of<16>(a);
  }
}

void sum_granules(const GranuleSums& a) {
  Lanes sums[kPageTokens / kLanes];
  for (Lanes& s : sums) s = lanes_zero();
  for (int h = 0; h < a.heads; h++) {
    const float* row = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(a.scratch) + h * a.stride);
    const Lanes factor = lanes_set(row[a.factor]);
    for (int t = 0; t < kPageTokens; t += kLanes) {
      sums[t / kLanes] = fma(factor, load_f32(row + a.scores + t), sums[t / kLanes]);
    }
  }
  float weights[kPageTokens];
  for (int t = 0; t < kPageTokens; t += kLanes) store_f32(weights + t, sums[t / kLanes]);
  float* out = a.out;
  for (int t = 0; t < a.tokens; t += a.granule_tokens) {
    float sum = weights[t];
    for (int i = t + 1; i < a.tokens && i < t + a.granule_tokens; i++) sum += weights[i];
    *out++ = sum;
  }
}

}  // namespace
}  // namespace spillway
