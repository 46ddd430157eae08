// Partial keys (kernels/selection.h) against the partial queries of a group, a page at a time; written once over Lanes.
// Codes are multiplied as they are: a token's scale and minimum come in once for each score.

namespace spillway {
namespace {

// Codes of the page's tokens as halves [tokens x rank], which hold them exactly. They are read by 16: of a row's last
// eight what lies behind is read, which is of the page.
template <int kBits>
inline void widen_codes(const KeyScores& a, std::byte* out) {
  const int row = a.rank * kBits / 8;
  for (int t = 0; t < a.tokens; t++) {
    for (int j = 0; j < a.rank; j += kLanes) {
      const Lanes codes = load_codes<kBits>(a.page + t * row + j * kBits / 8);
      std::byte* to = out + int64_t{2} * (t * a.rank + j);
      if (a.rank - j >= kLanes) {
        store_f16(to, codes);
      } else {
        store_f16_part(to, codes, a.rank - j);
      }
    }
  }
}

inline float* row_of(const KeyScores& a, int head) {
  return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.scratch) + head * a.stride);
}

void score_page(const KeyScores& a) {
  float* keys = a.worker;  // [padded x kPageTokens]
  const std::byte* halves = a.page;
  if (a.bits < 16) {
    auto* widened = reinterpret_cast<std::byte*>(keys + padded_head(a.rank) * kPageTokens);
    a.bits == 8 ? widen_codes<8>(a, widened) : widen_codes<4>(a, widened);
    halves = widened;
  }
  transpose_page(halves, a.tokens, a.rank, halves, keys);
  const auto step = static_cast<int64_t>(a.stride / sizeof(float));
  broadcast_product(a.scratch, step, a.heads, keys, kPageTokens, a.rank, a.scratch + a.scores, step, kPageTokens, true);
  const std::byte* groups = a.page + kPageTokens * a.rank * a.bits / 8;
  for (int h = 0; h < a.heads; h++) {
    float* row = row_of(a, h);
    float* scores = row + a.scores;
    if (a.bits < 16) {
      Lanes sums = lanes_zero();
      for (int j = 0; j < a.rank; j += kLanes) sums = add(sums, load_f32_part(row + j, lanes_left(a.rank - j)));
      const Lanes sum = lanes_set(sum_of(sums));
      for (int t = 0; t < kPageTokens; t += kLanes) {
        Lanes scale, minimum;
        load_scales(groups + 4 * t, scale, minimum);
        store_f32(scores + t, fma(load_f32(scores + t), scale, mul(minimum, sum)));
      }
    }
    softmax_part(scores, a.tokens, a.scale, row + a.largest, row + a.largest + 1);
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
