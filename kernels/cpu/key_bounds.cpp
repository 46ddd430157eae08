#include "kernels/cpu/key_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The sum over channels of max(q * smallest, q * largest): eight sums side by side, which a compiler makes wide.
float bound_of(const float* q, const float* smallest, const float* largest, int head_dim) {
  float sums[8] = {};
  int i = 0;
  for (; i + 8 <= head_dim; i += 8) {
    for (int lane = 0; lane < 8; lane++) {
      sums[lane] += std::max(q[i + lane] * smallest[i + lane], q[i + lane] * largest[i + lane]);
    }
  }
  for (int lane = 0; i < head_dim; i++, lane++) sums[lane] += std::max(q[i] * smallest[i], q[i] * largest[i]);
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// The scores of one page's granules, for the heads of one group.
void score_page(const CpuKernels& kernels, const ScoreBoundsCall& call, int64_t page, int64_t kv_head) {
  const KeyBoundsFormat& format = call.format;
  const int group = call.shape.heads / format.kv_heads, head_dim = format.head_dim;
  const std::byte* bounds = call.rows[page] + kv_head * format.page_bytes();
  const int64_t first = page * format.granules();
  float values[2 * kMostHeadDim];
  for (int64_t granule = first; granule < std::min(call.weights.cols, first + format.granules()); granule++) {
    kernels.widen(DType::f16, bounds + (granule - first) * format.granule_bytes(), 2 * head_dim, values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
      call.scratch.f32(head)[granule] =
          call.shape.scale * bound_of(call.q.f32() + head * head_dim, values, values + head_dim, head_dim);
    }
  }
}

void softmax(float* scores, int64_t count) {
  float largest = -kInfinity, sum = 0.0f;
  for (int64_t i = 0; i < count; i++) largest = std::max(largest, scores[i]);
  for (int64_t i = 0; i < count; i++) sum += scores[i] = std::exp(scores[i] - largest);
  for (int64_t i = 0; i < count; i++) scores[i] /= sum;
}

}  // namespace

void key_bounds(const CpuKernels& kernels, const KvFormat& kv, const KeyBoundsFormat& format, const PartialKeyRun& run,
                int head) {
  const int end = run.first_token + run.count, size = format.granule_tokens, head_dim = kv.head_dim;
  float key[kMostHeadDim], bounds[2 * kMostHeadDim];
  for (int granule = run.first_token / size; run.count > 0 && granule * size < end; granule++) {
    std::fill_n(bounds, head_dim, kInfinity);
    std::fill_n(bounds + head_dim, head_dim, -kInfinity);
    for (int token = granule * size; token < std::min(end, (granule + 1) * size); token++) {
      kernels.widen(DType::f16, run.page_row + head * kv.page_bytes() + token * kv.token_bytes(), head_dim, key);
      for (int i = 0; i < head_dim; i++) {
        bounds[i] = std::min(bounds[i], key[i]);
        bounds[head_dim + i] = std::max(bounds[head_dim + i], key[i]);
      }
    }
    kernels.to_f16(bounds, 2 * head_dim,
                   run.partial + head * format.page_bytes() + static_cast<uint64_t>(granule) * format.granule_bytes());
  }
}

void run_score_bounds(const CpuKernels& kernels, Team& team, const ScoreBoundsCall& call) {
  const auto pages = static_cast<int64_t>(call.rows.size());
  if (pages == 0) return;
  team.run(pages * call.format.kv_heads,
           [&](int64_t task, int) { score_page(kernels, call, task % pages, task / pages); });
  const int group = call.shape.heads / call.format.kv_heads;
  team.run(call.format.kv_heads, [&](int64_t kv_head, int) {
    float* weights = call.weights.f32(kv_head);
    std::fill_n(weights, call.weights.cols, 0.0f);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
      float* scores = call.scratch.f32(head);
      softmax(scores, call.weights.cols);
      for (int64_t g = 0; g < call.weights.cols; g++) weights[g] += scores[g];
    }
  });
}

}  // namespace spillway
