#include "apps/batch/needs.h"

#include <algorithm>

#include "kernels/kv_page.h"
#include "memory/extent.h"
#include "runtime/batch_schedule.h"

namespace spillway {

void BatchNeeds::add(const BatchRequest& request, int most_positions) {
  const int prompt = static_cast<int>(request.prompt.size()), most = request.options.max_tokens;
  ++requests;
  endless += most < 0 ? 1 : 0;
  const auto up_to = [&](int64_t wanted) { return static_cast<int>(std::min<int64_t>(wanted, most_positions)); };
  const auto pages = [](int needed) { return align_up(static_cast<uint64_t>(needed), kPageTokens); };
  const int needed = up_to(most < 0 ? most_positions : int64_t{prompt} + most);
  longest = std::max(longest, needed);
  roomy += pages(needed);
  positions += pages(most < 0 && guesses ? up_to(int64_t{prompt} + kExpectedAnswer) : needed);
}

BatchWishes BatchNeeds::wishes(int sequences) const {
  const auto mean = [&](uint64_t all) { return static_cast<int>(requests > 0 ? (all + requests - 1) / requests : 1); };
  return {.positions = std::max(longest, 1),
          .mean_positions = mean(positions),
          .roomy_positions = mean(roomy),
          .sequences = sequences};
}

}  // namespace spillway
