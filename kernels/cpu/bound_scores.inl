// Bounds of keys (kernels/selection.h) against the queries of a group, a few granules at a time; written once over
// Lanes. Of the two sums that a channel may add to, the larger is kept: rounded as if the larger product were added.

namespace spillway {
namespace {

// What M heads have of one granule, as partial sums, `step` Lanes from head to head.
template <int M>
inline void bound_sums(const BoundScores& a, int head, const std::byte* granule, Lanes* out, int step) {
  const float* q = a.q + int64_t{head} * a.head_dim;
  const std::byte* above = granule + 2 * a.head_dim;
  Lanes sums[M];
  for (int i = 0; i < M; i++) sums[i] = lanes_zero();
  int c = 0;
  for (; c + kLanes <= a.head_dim; c += kLanes) {
    const Lanes smallest = load_f16(granule + 2 * c), largest = load_f16(above + 2 * c);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) {
      const Lanes query = load_f32(q + i * a.head_dim + c);
      sums[i] = max(fma(query, smallest, sums[i]), fma(query, largest, sums[i]));
    }
  }
  if (c < a.head_dim) {
    const int left = a.head_dim - c;
    const Lanes smallest = load_f16_part(granule + 2 * c, left), largest = load_f16_part(above + 2 * c, left);
    for (int i = 0; i < M; i++) {
      const Lanes query = load_f32_part(q + i * a.head_dim + c, left);
      sums[i] = max(fma(query, smallest, sums[i]), fma(query, largest, sums[i]));
    }
  }
  for (int i = 0; i < M; i++) out[i * step] = sums[i];
}

template <int M = kScoreHeads>
inline void bounds_of_heads(const BoundScores& a, int head, int heads) {
  if constexpr (M > 1) {
    if (heads < M) return bounds_of_heads<M - 1>(a, head, heads);
  }
  Lanes sums[M][kLanes];
  for (int g = 0; g < a.count; g++) bound_sums<M>(a, head, a.granules[g], &sums[0][g], kLanes);
  for (int i = 0; i < M; i++) {
    for (int g = a.count; g < kLanes; g++) sums[i][g] = lanes_zero();
    auto* row = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(a.out) + (head + i) * a.stride);
    store_f32_part(row, sums_of(sums[i]), a.count);
  }
}

void score_bounds(const BoundScores& a) {
  for (int head = 0; head < a.heads; head += kScoreHeads) bounds_of_heads(a, head, a.heads - head);
}

}  // namespace
}  // namespace spillway
