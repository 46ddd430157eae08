#include "kernels/cpu/key_bounds.h"

#include <algorithm>
#include <limits>

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kGranulesPerTask = 4 * kLanes;

// The scores of `count` granules for all heads, without their scale: of one KV head after another, as the bounds of a
// page row lie.
void score_granules(const CpuKernels& kernels, const ScoreBoundsCall& call, int64_t first, int count) {
  const KeyBoundsFormat& format = call.format;
  const int group = call.shape.heads / format.kv_heads, of_page = format.granules();
  BoundScores scores{.granules = {},
                     .count = count,
                     .head_dim = format.head_dim,
                     .heads = group,
                     .q = call.q.f32(),
                     .out = nullptr,
                     .stride = call.scratch.stride};
  for (int i = 0; i < count; i++) {
    scores.granules[i] =
        call.rows[static_cast<size_t>((first + i) / of_page)] + (first + i) % of_page * format.granule_bytes();
  }
  for (int64_t kv_head = 0; kv_head < format.kv_heads; kv_head++) {
    scores.out = call.scratch.f32(kv_head * group) + first;
    kernels.score_bounds(scores);
    scores.q += int64_t{group} * format.head_dim;
    for (int i = 0; i < count; i++) scores.granules[i] += format.page_bytes();
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
  team.run((granules + kGranulesPerTask - 1) / kGranulesPerTask, [&](int64_t task, int) {
    const int64_t end = std::min(granules, (task + 1) * kGranulesPerTask);
    for (int64_t first = task * kGranulesPerTask; first < end; first += kLanes) {
      score_granules(kernels, call, first, static_cast<int>(std::min<int64_t>(kLanes, end - first)));
    }
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
