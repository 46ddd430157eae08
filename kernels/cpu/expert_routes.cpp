#include "kernels/cpu/expert_routes.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <limits>

#include "kernels/shape.h"

namespace spillway {
namespace {

// What is no number is below all.
double value_of(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<double>::infinity() : static_cast<double>(logit);
}

}  // namespace

// Sums in double: the choice is the same, and a weight within a rounding of the reference's, whatever instructions the
// products before were made of.
void choose_experts(const float* logits, bool normalise, const ExpertRoutes& routes, int64_t row) {
  std::bitset<kMostExperts> taken;
  double largest = 0;
  for (int i = 0; i < routes.used; i++) {
    int best = -1;
    for (int e = 0; e < routes.experts; e++) {
      if (!taken[e] && (best < 0 || value_of(logits[e]) > value_of(logits[best]))) best = e;
    }
    if (i == 0) largest = value_of(logits[best]);
    taken.set(best);
  }
  const auto share = [&](int e) {
    const double value = value_of(logits[e]);
    return value == largest ? 1.0 : std::exp(value - largest);
  };
  int32_t* chosen = routes.chosen() + row * routes.used;
  float* weights = routes.weight() + row * routes.used;
  std::array<double, kMostExpertsUsed> shares;
  double sum = 0;
  for (int e = 0, i = 0; e < routes.experts; e++) {
    if (!taken[e] && normalise) continue;
    const double here = share(e);
    sum += here;
    if (!taken[e]) continue;
    chosen[i] = e;
    shares[i++] = here;
  }
  for (int i = 0; i < routes.used; i++) weights[i] = static_cast<float>(shares[i] / sum);
}

void deal_out(const ExpertRoutes& routes) {
  int32_t* first = routes.first();
  std::fill_n(first, routes.experts + 1, 0);
  const int64_t places = routes.places();
  for (int64_t i = 0; i < places; i++) first[routes.chosen()[i] + 1]++;
  for (int e = 0; e < routes.experts; e++) first[e + 1] += first[e];
  std::array<int32_t, kMostExperts> next;
  std::copy_n(first, routes.experts, next.begin());
  for (int64_t i = 0; i < places; i++) {
    const int32_t expert = routes.chosen()[i];
    routes.place()[i] = next[expert];
    routes.expert()[next[expert]++] = expert;
  }
}

}  // namespace spillway
