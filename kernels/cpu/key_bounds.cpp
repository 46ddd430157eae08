#include "kernels/cpu/key_bounds.h"

#include <algorithm>
#include <limits>

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kGranulesPerTask = 8 * kLanes;

// The scores of granules [first, end) for the heads of one group, without their scale.
void score_granules(const CpuKernels& kernels, const ScoreBoundsCall& call, int64_t first, int64_t end,
                    int64_t kv_head) {
  const KeyBoundsFormat& format = call.format;
  const int group = call.shape.heads / format.kv_heads;
  for (; first < end; first += kLanes) {
    BoundScores scores{.granules = {},
                       .count = static_cast<int>(std::min<int64_t>(kLanes, end - first)),
                       .head_dim = format.head_dim,
                       .heads = group,
                       .q = call.q.f32() + kv_head * group * format.head_dim,
                       .out = call.scratch.f32(kv_head * group) + first,
                       .stride = call.scratch.stride};
    for (int i = 0; i < scores.count; i++) {
      const int64_t granule = first + i;
      scores.granules[i] = call.rows[static_cast<size_t>(granule / format.granules())] + kv_head * format.page_bytes() +
                           granule % format.granules() * format.granule_bytes();
    }
    kernels.score_bounds(scores);
  }
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
  const int64_t granules = call.weights.cols, heads = call.shape.heads, kv_heads = call.format.kv_heads;
  if (granules == 0) return;
  const int64_t pieces = (granules + kGranulesPerTask - 1) / kGranulesPerTask;
  team.run(pieces * kv_heads, [&](int64_t task, int) {
    const int64_t first = task % pieces * kGranulesPerTask;
    score_granules(kernels, call, first, std::min(granules, first + kGranulesPerTask), task / pieces);
  });
  team.run(heads, [&](int64_t head, int) {
    float largest = 0.0f, sum = 0.0f;
    kernels.softmax(call.scratch.f32(head), static_cast<int>(granules), call.shape.scale, &largest, &sum);
    kernels.scale(call.scratch.f32(head), 1.0f / sum, granules);
  });
  const int64_t group = heads / kv_heads;
  team.run(kv_heads, [&](int64_t kv_head, int) {
    float* weights = call.weights.f32(kv_head);
    std::copy_n(call.scratch.f32(kv_head * group), granules, weights);
    for (int64_t i = 1; i < group; i++) kernels.add(weights, call.scratch.f32(kv_head * group + i), granules);
  });
}

}  // namespace spillway
