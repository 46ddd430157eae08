#include "runtime/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr std::array<double, 14> kInverseFactorials = [] {
  std::array<double, 14> inverse{};
  double factorial = 1;
  for (size_t i = 0; i < inverse.size(); ++i) {
    if (i > 0) factorial *= static_cast<double>(i);
    inverse[i] = 1 / factorial;
  }
  return inverse;
}();

// exp(x) for x <= 0 from IEEE additions and multiplications alone, so that it gives the same bits everywhere
// (libraries' differ in the last place). x = n ln 2 + r, |r| <= ln 2 / 2; Taylor's series to r^13 leaves less than
// 1e-16.
double portable_exp(double x) {
  if (!(x > -708.0)) return 0.0;  // below the least normal number, and minus infinity
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kToWhole = 0x1.8p52;  // adding it rounds away the fraction
  const double n = (x * 1.44269504088896338700 + kToWhole) - kToWhole;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double sum = kInverseFactorials.back();
  for (size_t i = kInverseFactorials.size() - 1; i-- > 0;) sum = sum * r + kInverseFactorials[i];
  return sum * std::bit_cast<double>(static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52);
}

bool likelier(const Sampler::Candidate& a, const Sampler::Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

void check_range(const char* flag, double value, double low, double high) {
  if (value >= low && value <= high) return;
  throw Error(ErrorKind::usage, fmt::format("{}: {} is not between {} and {}", flag, value, low, high));
}

template <typename F>
struct ScopeEnd {
  F at_end;
  ~ScopeEnd() { at_end(); }
};

// The likeliest token; checks every logit on the way.
int32_t likeliest(std::span<const float> logits) {
  int32_t best = 0;
  float most = -std::numeric_limits<float>::infinity();
  bool broken = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    broken |= !(logits[i] <= std::numeric_limits<float>::max());
    if (logits[i] > most) {
      most = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  if (broken) {
    const auto at =
        std::find_if(logits.begin(), logits.end(), [](float x) { return !(x <= std::numeric_limits<float>::max()); });
    throw Error(ErrorKind::model, fmt::format("the logit of token {} is {}: the model's weights give no answer",
                                              at - logits.begin(), *at));
  }
  if (std::isinf(most))
    throw Error(ErrorKind::model, "every logit is minus infinity: the model's weights give no answer");
  return best;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options, int vocab) : options_(options), vocab_(vocab), random_(options.seed) {
  SPILLWAY_CHECK(vocab > 0);
  check_range("--temp", options.temp, 0, 1e6);
  check_range("--top-p", options.top_p, 0, 1);
  check_range("--min-p", options.min_p, 0, 1);
  check_range("--repeat-penalty", options.repeat_penalty, 0.01, 100);
  check_range("--repeat-last-n", options.repeat_last_n, -1, std::numeric_limits<int>::max());
}

int32_t Sampler::sample(std::span<const float> logits) {
  // Room for a whole vocabulary is the thread's: of many samplers that take turns, each would keep its own.
  thread_local std::vector<Candidate> room;
  kept_.swap(room);
  const ScopeEnd give_back{[&] { kept_.swap(room); }};
  candidates(logits);
  return draw();
}

std::optional<CandidateChoice> Sampler::choice() {
  const int k = options_.temp == 0 ? 1 : options_.top_k;
  if (k <= 0 || k > std::min(kMostCandidates, vocab_ / 4) || seen_.size() > kMostPenalised) return std::nullopt;
  penalised_.clear();
  for (const auto& [id, count] : seen_) penalised_.push_back(id);
  return CandidateChoice{.k = k, .penalised = penalised_, .penalty = options_.repeat_penalty};
}

std::optional<int32_t> Sampler::sample_chosen(std::span<const float> chosen) {
  const size_t k = chosen.size() / 2;
  SPILLWAY_CHECK(chosen.size() == static_cast<size_t>(candidate_floats(static_cast<int>(k))));
  if (std::isnan(chosen.back())) return std::nullopt;
  kept_.clear();
  for (size_t i = 0; i < k && !std::isinf(chosen[i]); ++i) {
    kept_.push_back({std::bit_cast<int32_t>(chosen[k + i]), chosen[i], 1.0});
  }
  if (options_.temp != 0) narrow();
  return draw();
}

int32_t Sampler::draw() {
  if (options_.temp == 0) return kept_.front().id;
  double total = 0;
  for (const Candidate& each : kept_) total += each.weight;
  // 53 bits, uniform in [0, 1): std::uniform_real_distribution may differ between libraries.
  const double drawn = static_cast<double>(random_() >> 11) * 0x1p-53 * total;
  double sum = 0;
  for (const Candidate& each : kept_) {
    sum += each.weight;
    if (drawn < sum) return each.id;
  }
  // Only by rounding: the last one that could be drawn at all.
  return std::find_if(kept_.rbegin(), kept_.rend(), [](const Candidate& c) { return c.weight > 0; })->id;
}

void Sampler::accept(int32_t id) {
  SPILLWAY_CHECK(id >= 0 && id < vocab_);
  if (options_.repeat_last_n == 0 || options_.repeat_penalty == 1.0f) return;
  recent_.push_back(id);
  ++seen_[id];
  if (options_.repeat_last_n > 0 && recent_.size() > static_cast<size_t>(options_.repeat_last_n)) {
    const auto oldest = seen_.find(recent_.front());
    if (--oldest->second == 0) seen_.erase(oldest);
    recent_.pop_front();
  }
}

std::span<const Sampler::Candidate> Sampler::candidates(std::span<const float> logits) {
  SPILLWAY_CHECK(logits.size() == static_cast<size_t>(vocab_));
  if (options_.repeat_penalty != 1.0f) logits = penalised(logits);
  const int32_t best = likeliest(logits);
  kept_.assign(1, {best, logits[static_cast<size_t>(best)], 1.0});  // weigh() wants the likeliest in front
  if (options_.temp == 0) return kept_;
  if (options_.top_k > 0 && options_.top_k < vocab_) {
    keep_top_k(logits);
  } else {
    keep_all(logits);
  }
  narrow();
  return kept_;
}

// The steps between top-k and the draw; the likeliest is in front.
void Sampler::narrow() {
  if (options_.top_p < 1 || options_.min_p > 0) {
    const double total = weigh(1.0);
    // Both rules keep the likeliest down to some point, so their order does not matter; the cheap one goes first.
    std::erase_if(kept_, [&](const Candidate& c) { return c.weight < static_cast<double>(options_.min_p); });
    if (options_.top_p < 1) keep_top_p(total);
  }
  weigh(options_.temp);
}

std::span<const float> Sampler::penalised(std::span<const float> logits) {
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [id, count] : seen_) {
    float& logit = adjusted_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
  }
  return adjusted_;
}

// One pass against the k-th best so far: after a short start nearly every logit is dropped by a single comparison.
void Sampler::keep_top_k(std::span<const float> logits) {
  const auto k = static_cast<size_t>(options_.top_k);
  const size_t room = 2 * k + 64;
  float least = -std::numeric_limits<float>::infinity();
  const auto cut = [&] {
    if (kept_.size() <= k) return;
    std::nth_element(kept_.begin(), kept_.begin() + static_cast<ptrdiff_t>(k) - 1, kept_.end(), likelier);
    kept_.resize(k);
    least = kept_.back().logit;
  };
  kept_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    // Among equals the lower id stays, and it came first.
    if (!(logits[i] > least)) continue;
    kept_.push_back({static_cast<int32_t>(i), logits[i], 0});
    if (kept_.size() >= room) cut();
  }
  cut();
  std::sort(kept_.begin(), kept_.end(), likelier);
}

void Sampler::keep_all(std::span<const float> logits) {
  const auto best = static_cast<size_t>(kept_.front().id);
  kept_.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != best) kept_.push_back({static_cast<int32_t>(i), logits[i], 0});
  }
}

// Sorts only as far as the share reaches, in growing pieces.
void Sampler::keep_top_p(double total) {
  const double wanted = static_cast<double>(options_.top_p) * total;
  double sum = 0;
  for (size_t sorted = 0, piece = 64; sorted < kept_.size(); piece *= 8) {
    const size_t end = std::min(sorted + piece, kept_.size());
    const auto first = kept_.begin() + static_cast<ptrdiff_t>(sorted),
               last = kept_.begin() + static_cast<ptrdiff_t>(end);
    if (last != kept_.end()) std::nth_element(first, last, kept_.end(), likelier);
    std::sort(first, last, likelier);
    for (; sorted < end; ++sorted) {
      sum += kept_[sorted].weight;
      if (sum >= wanted) {
        kept_.resize(sorted + 1);
        return;
      }
    }
  }
}

// Weights in proportion to exp(logit / temp), the likeliest's being 1; returns their sum.
double Sampler::weigh(double temp) {
  const double most = kept_.front().logit;
  double total = 0;
  for (Candidate& each : kept_) {
    each.weight = portable_exp((static_cast<double>(each.logit) - most) / temp);
    total += each.weight;
  }
  return total;
}

}  // namespace spillway
