#include "apps/batch/needs.h"

#include <algorithm>

#include "kernels/kv_page.h"
#include "memory/extent.h"

namespace spillway {

void BatchNeeds::add(const BatchRequest& request, int most_positions) {
  const int prompt = static_cast<int>(request.prompt.size()), most = request.options.max_tokens;
  ++requests;
  endless += most < 0 ? 1 : 0;
  const int64_t wanted = most < 0 ? most_positions : int64_t{prompt} + most;
  const int needed = static_cast<int>(std::min<int64_t>(wanted, most_positions));
  longest = std::max(longest, needed);
  positions += align_up(static_cast<uint64_t>(needed), kPageTokens);
}

BatchWishes BatchNeeds::wishes(int sequences) const {
  const uint64_t mean = requests > 0 ? (positions + requests - 1) / requests : 1;
  return {.positions = std::max(longest, 1), .mean_positions = static_cast<int>(mean), .sequences = sequences};
}

}  // namespace spillway
