#include "kernels/cpu/candidates.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace spillway {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};

bool likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

}  // namespace

void penalise(std::span<float> logits, std::span<const int32_t> ids, float penalty) {
  for (const int32_t id : ids) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// One pass against the k-th best so far: after a short start nearly every logit is dropped by a single comparison.
void choose_candidates(std::span<const float> logits, int k, float* out) {
  const auto wanted = static_cast<size_t>(k);
  std::vector<Candidate> kept;
  kept.reserve(2 * wanted + 64);
  float least = -std::numeric_limits<float>::infinity();
  const auto cut = [&] {
    std::nth_element(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(wanted) - 1, kept.end(), likelier);
    kept.resize(wanted);
    least = kept.back().logit;
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    // Among equals the lower id stays, and it came first. What is not a number has no place: the sum tells of it.
    if (kept.size() >= wanted && !(logits[i] > least)) continue;
    kept.push_back(
        {std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i], static_cast<int32_t>(i)});
    if (kept.size() == kept.capacity()) cut();
  }
  cut();
  std::sort(kept.begin(), kept.end(), likelier);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - kept.front().logit);
  for (size_t i = 0; i < wanted; ++i) {
    out[i] = kept[i].logit;
    std::memcpy(out + wanted + i, &kept[i].id, sizeof(int32_t));
  }
  out[2 * wanted] = static_cast<float>(sum);
}

}  // namespace spillway
