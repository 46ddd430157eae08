#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "kernels/check.h"
#include "kernels/cpu/candidates.h"

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::mt19937_64& random, int vocab, double spread) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& x : logits) {
    // Sum of uniforms, coarse on purpose so that equal logits occur.
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(random() >> 11) * 0x1p-53;
    x = static_cast<float>(std::round((sum - 2.0) * spread * 64) / 64);
  }
  return logits;
}

// The whole distribution by sorting everything, one step after the other as llama.cpp orders them.
std::map<int32_t, double> brute_force(std::vector<float> logits, const SamplingOptions& o,
                                      std::vector<int32_t> recent) {
  if (o.repeat_last_n >= 0 && recent.size() > static_cast<size_t>(o.repeat_last_n)) {
    recent.erase(recent.begin(), recent.end() - o.repeat_last_n);
  }
  std::sort(recent.begin(), recent.end());
  recent.erase(std::unique(recent.begin(), recent.end()), recent.end());
  for (const int32_t id : recent) {
    float& x = logits[static_cast<size_t>(id)];
    x = x > 0 ? x / o.repeat_penalty : x * o.repeat_penalty;
  }
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto logit = [&](int32_t id) { return static_cast<long double>(logits[static_cast<size_t>(id)]); };
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (o.temp == 0) return {{ids[0], 1.0}};
  if (o.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(o.top_k)));
  if (o.top_p < 1) {
    long double total = 0, sum = 0;
    for (const int32_t id : ids) total += std::exp(logit(id) - logit(ids[0]));
    size_t keep = 0;
    while (keep < ids.size()) {
      sum += std::exp(logit(ids[keep++]) - logit(ids[0]));
      if (sum >= static_cast<long double>(o.top_p) * total) break;
    }
    ids.resize(keep);
  }
  std::erase_if(ids, [&, most = logit(ids[0])](int32_t id) {
    return std::exp(logit(id) - most) < static_cast<long double>(o.min_p);
  });
  long double total = 0;
  for (const int32_t id : ids) total += std::exp((logit(id) - logit(ids[0])) / static_cast<long double>(o.temp));
  std::map<int32_t, double> result;
  for (const int32_t id : ids) {
    result[id] = static_cast<double>(std::exp((logit(id) - logit(ids[0])) / static_cast<long double>(o.temp)) / total);
  }
  return result;
}

void expect_distribution(std::span<const Sampler::Candidate> found, const std::map<int32_t, double>& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  double total = 0;
  for (const auto& each : found) total += each.weight;
  for (const auto& each : found) {
    ASSERT_TRUE(wanted.contains(each.id)) << each.id;
    EXPECT_NEAR(each.weight / total, wanted.at(each.id), 1e-12 + 1e-12 * wanted.at(each.id));
  }
}

TEST(SamplerTest, DistributionIsBruteForces) {
  std::mt19937_64 random(7);
  const auto pick = [&](auto... values) {
    const std::common_type_t<decltype(values)...> all[] = {values...};
    return all[random() % sizeof...(values)];
  };
  for (int round = 0; round < 2000; ++round) {
    SamplingOptions o;
    o.temp = pick(0.0f, 0.1f, 0.7f, 1.0f, 1.7f);
    o.top_k = pick(-1, 0, 1, 2, 7, 40, 300, 5000);
    o.top_p = pick(0.0f, 0.1f, 0.5f, 0.9f, 0.97f, 1.0f);
    o.min_p = pick(0.0f, 0.01f, 0.05f, 0.3f, 1.0f);
    o.repeat_penalty = pick(1.0f, 1.1f, 1.8f, 0.8f);
    o.repeat_last_n = pick(-1, 0, 3, 64);
    const int vocab = pick(1, 2, 5, 100, 1000);
    Sampler sampler(o, vocab);
    std::vector<int32_t> recent;
    for (int i = pick(0, 2, 10, 100); i > 0; --i) {
      recent.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
      sampler.accept(recent.back());
    }
    const auto logits = random_logits(random, vocab, pick(0.5, 3.0, 12.0));
    expect_distribution(sampler.candidates(logits), brute_force(logits, o, recent));
    if (HasFailure()) FAIL() << "round " << round;
  }
}

TEST(SamplerTest, DrawsInProportion) {
  SamplingOptions o{.temp = 0.8f, .top_k = 6, .top_p = 1.0f, .min_p = 0.0f, .seed = 42};
  const std::vector<float> logits = {1.0f, 3.0f, -2.0f, 2.5f, 2.9f, 0.0f, 1.5f, 2.0f};
  const auto wanted = brute_force(logits, o, {});
  Sampler sampler(o, 8);
  constexpr int kDraws = 200000;
  std::map<int32_t, int> count;
  for (int i = 0; i < kDraws; ++i) ++count[sampler.sample(logits)];
  double chi_squared = 0;
  for (const auto& [id, p] : wanted) {
    chi_squared += (count[id] - p * kDraws) * (count[id] - p * kDraws) / (p * kDraws);
    count.erase(id);
  }
  EXPECT_TRUE(count.empty());
  EXPECT_LT(chi_squared, 20.5);  // 5 degrees of freedom: one in a thousand, and the seed is fixed
}

// The very draw, from the generator that the standard defines: the same on every machine.
TEST(SamplerTest, DrawIsDocumented) {
  std::mt19937_64 random(3), mirror(99);
  SamplingOptions o{.temp = 1.3f, .top_k = 25, .top_p = 0.9f, .min_p = 0.0f, .seed = 99};
  Sampler sampler(o, 500), twin(o, 500);
  for (int step = 0; step < 500; ++step) {
    const auto logits = random_logits(random, 500, 6);
    auto sorted = brute_force(logits, o, {});
    std::vector<int32_t> ids;
    for (const auto& [id, p] : sorted) ids.push_back(id);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    const double drawn = static_cast<double>(mirror() >> 11) / 9007199254740992.0;
    double sum = 0;
    size_t at = 0;
    while (at + 1 < ids.size() && (sum += sorted[ids[at]]) <= drawn) ++at;
    const int32_t got = sampler.sample(logits);
    EXPECT_EQ(got, ids[at]);
    EXPECT_EQ(got, twin.sample(logits));
  }
}

TEST(SamplerTest, WhatADeviceChoosesDrawsTheSameTokens) {
  std::mt19937_64 random(11);
  for (const SamplingOptions& o :
       {SamplingOptions{.temp = 0}, SamplingOptions{.temp = 0, .repeat_penalty = 1.4f, .repeat_last_n = 5},
        SamplingOptions{.seed = 4}, SamplingOptions{.temp = 1.5f, .top_k = 7, .top_p = 0.6f, .repeat_penalty = 1.2f},
        SamplingOptions{.temp = 1.0f, .top_k = 75, .top_p = 1, .min_p = 0}}) {
    constexpr int kVocab = 300;
    Sampler whole(o, kVocab), chosen(o, kVocab);
    for (int step = 0; step < 200; ++step) {
      auto logits = random_logits(random, kVocab, 6);
      for (int i = step; i < kVocab; i += 3) logits[static_cast<size_t>(i)] = -kInfinity;
      const int32_t wanted = whole.sample(logits);
      const auto choice = chosen.choice();
      ASSERT_TRUE(choice);
      std::vector<float> row(static_cast<size_t>(candidate_floats(choice->k)));
      penalise(logits, choice->penalised, choice->penalty);
      choose_candidates(logits, choice->k, row.data());
      ASSERT_EQ(chosen.sample_chosen(row), wanted) << "step " << step;
      whole.accept(wanted);
      chosen.accept(wanted);
    }
  }
}

TEST(SamplerTest, WholeRowsWhereTheLikeliestDoNotDo) {
  EXPECT_FALSE(Sampler({.top_k = 0}, 5000).choice());
  EXPECT_FALSE(Sampler({.top_k = 500}, 1000).choice());
  EXPECT_FALSE(Sampler({.top_k = kMostCandidates + 1}, 5000).choice());
  EXPECT_TRUE(Sampler({.temp = 0, .top_k = 0}, 5000).choice());
  std::vector<float> logits(100, 1.0f), row(static_cast<size_t>(candidate_floats(40)));
  logits[70] = std::numeric_limits<float>::quiet_NaN();
  choose_candidates(logits, 40, row.data());
  EXPECT_FALSE(Sampler({}, 100).sample_chosen(row));
}

TEST(SamplerTest, SeedsDiffer) {
  const std::vector<float> flat(1000, 0.0f);
  SamplingOptions o{.top_k = 0, .top_p = 1, .min_p = 0, .seed = 1};
  Sampler a(o, 1000);
  o.seed = 2;
  Sampler b(o, 1000);
  int same = 0;
  for (int i = 0; i < 100; ++i) same += a.sample(flat) == b.sample(flat);
  EXPECT_LT(same, 5);
}

TEST(SamplerTest, GreedyTakesTheLowestIdAmongEquals) {
  Sampler sampler({.temp = 0, .repeat_penalty = 2.0f}, 5);
  const std::vector<float> logits = {-1.0f, 2.0f, 2.0f, 0.5f, 2.0f};
  EXPECT_EQ(sampler.sample(logits), 1);
  sampler.accept(1);
  EXPECT_EQ(sampler.sample(logits), 2);
}

TEST(SamplerTest, TopKKeepsTheLowestIdsAmongEquals) {
  Sampler sampler({.temp = 1, .top_k = 2, .top_p = 1, .min_p = 0}, 6);
  std::vector<int32_t> ids;
  const std::vector<float> logits = {0, 1, 1, 1, 1, 1};
  for (const auto& each : sampler.candidates(logits)) ids.push_back(each.id);
  EXPECT_THAT(ids, testing::UnorderedElementsAre(1, 2));
}

TEST(SamplerTest, ForbiddenTokensAreNeverDrawn) {
  Sampler sampler({.temp = 5, .top_k = 0, .top_p = 1, .min_p = 0}, 4);
  const std::vector<float> logits = {-kInfinity, 0.0f, -kInfinity, -1.0f};
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(sampler.sample(logits) % 2, 1);
}

TEST(SamplerTest, ExtremeTemperatures) {
  const std::vector<float> logits = {0.0f, 1.0f, 0.999f};
  Sampler cold({.temp = 1e-30f, .top_k = 0, .top_p = 1, .min_p = 0}, 3);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(cold.sample(logits), 1);
  Sampler hot({.temp = 1e6f, .top_k = 0, .top_p = 1, .min_p = 0}, 3);
  std::map<int32_t, int> count;
  for (int i = 0; i < 3000; ++i) ++count[hot.sample(logits)];
  for (int id = 0; id < 3; ++id) EXPECT_NEAR(count[id], 1000, 120);
}

TEST(SamplerTest, BrokenLogitsAreTheModelsFault) {
  for (const float temp : {0.0f, 1.0f}) {
    Sampler sampler({.temp = temp}, 3);
    const auto refusal = [&](std::vector<float> logits) -> std::string {
      try {
        sampler.sample(logits);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::model);
        return error.what();
      }
      return "accepted";
    };
    EXPECT_THAT(refusal({0, std::nanf(""), 1}), testing::HasSubstr("token 1 is nan"));
    EXPECT_THAT(refusal({0, 1, kInfinity}), testing::HasSubstr("token 2 is inf"));
    EXPECT_THAT(refusal({-kInfinity, -kInfinity, -kInfinity}), testing::HasSubstr("every logit"));
    EXPECT_EQ(refusal({0, 1, 2}), "accepted");
  }
}

TEST(SamplerTest, OptionsOutOfRangeNameTheFlag) {
  const auto refusal = [](const SamplingOptions& o) -> std::string {
    try {
      Sampler sampler(o, 10);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return error.what();
    }
    return "accepted";
  };
  using testing::StartsWith;
  EXPECT_THAT(refusal({.temp = -1}), StartsWith("--temp: -1 "));
  EXPECT_THAT(refusal({.temp = std::nanf("")}), StartsWith("--temp:"));
  EXPECT_THAT(refusal({.top_p = 1.1f}), StartsWith("--top-p:"));
  EXPECT_THAT(refusal({.min_p = -0.1f}), StartsWith("--min-p:"));
  EXPECT_THAT(refusal({.repeat_penalty = 0}), StartsWith("--repeat-penalty:"));
  EXPECT_THAT(refusal({.repeat_last_n = -2}), StartsWith("--repeat-last-n:"));
  EXPECT_EQ(refusal({}), "accepted");
}

}  // namespace
}  // namespace spillway
