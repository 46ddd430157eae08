#include "apps/batch/shape.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/kv_page.h"
#include "memory/extent.h"

namespace spillway {
namespace {

constexpr int kMostPositions = 1 << 28;

}  // namespace

void BatchNeeds::add(const BatchRequest& request, int most_positions) {
  const int prompt = static_cast<int>(request.prompt.size()), most = request.options.max_tokens;
  const auto within = [&](int64_t answer) {
    return static_cast<int>(std::min<int64_t>(prompt + answer, most_positions));
  };
  ++requests;
  endless += most < 0 ? 1 : 0;
  const int needed = within(most < 0 ? most_positions : most);
  longest = std::max(longest, needed);
  positions += align_up(static_cast<uint64_t>(needed), kPageTokens);
}

ExpectedPasses expected_passes(const Plan& plan, double sequences) {
  const Expected& e = plan.expected;
  if (e.bound.empty() || e.prefill_tps <= 0 || sequences <= 0) return {};
  const std::pair<double, const char*> parts[] = {
      {e.compute_s + std::max(sequences - 1, 0.0) / e.prefill_tps, "compute"}, {e.disk_s, "disk"}, {e.link_s, "link"}};
  const auto& [seconds, bound] = *std::max_element(std::begin(parts), std::end(parts));
  if (seconds <= 0) return {};
  return {.tokens_per_second = sequences / seconds, .bound = bound};
}

BatchShape choose_shape(const Running& running, const BatchNeeds& needs, int most) {
  const auto longest = static_cast<uint64_t>(align_up(std::max(needs.longest, 1), kPageTokens));
  const uint64_t mean = needs.requests > 0 ? needs.positions / needs.requests + kPageTokens : kPageTokens;
  most = static_cast<int>(std::clamp<uint64_t>(needs.requests, 1, static_cast<uint64_t>(most)));
  BatchShape best;
  double best_speed = 0;
  for (int sequences = 1; sequences <= most; sequences = sequences < most ? std::min(2 * sequences, most) : most + 1) {
    const uint64_t positions = std::max(longest, std::min(needs.positions, sequences * mean));
    if (positions > kMostPositions) break;
    const auto plan = running.plan_shared(sequences, static_cast<int>(positions), static_cast<int>(longest));
    if (!plan) break;
    const ExpectedPasses expected = expected_passes(*plan, sequences);
    const double speed = expected.tokens_per_second > 0 ? expected.tokens_per_second : sequences;
    if (speed <= best_speed) continue;
    best_speed = speed;
    best = {.sequences = sequences, .positions = plan->context};
  }
  return best;
}

}  // namespace spillway
