// What a quality figure is made of: divergences by hand, and a window on a tiny model against plain decoding.
#include "runtime/quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/backend.h"
#include "runtime/planner.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::ElementsAreArray;

TEST(QualityTally, IsTheDivergenceOfTheTwoSoftmaxes) {
  QualityTally tally;
  const float reference[] = {0.0f, std::log(3.0f)};  // 1/4, 3/4
  const float row[] = {5.0f, 5.0f};                  // 1/2, 1/2
  tally.add(reference, row, 1);
  EXPECT_NEAR(tally.mean_divergence(), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-7);
  EXPECT_EQ(tally.same_top, 0) << "of equal ones the first is the likeliest";
  EXPECT_NEAR(tally.perplexity(), 2.0, 1e-6);
  tally.add(reference, reference, -1);
  EXPECT_EQ(tally.divergences[1], 0.0);
  EXPECT_EQ(tally.same_top, 1);
  EXPECT_EQ(tally.scored, 1) << "the token after the second row is not known";
}

TEST(QualityTally, PercentilesAreOfNearestRank) {
  QualityTally tally;
  for (int i = 20; i >= 1; --i) tally.divergences.push_back(i);
  EXPECT_EQ(tally.divergence_at(0.95), 19);
  EXPECT_EQ(tally.divergence_at(1.0), 20);
  EXPECT_EQ(tally.divergence_at(0.0), 1);
  EXPECT_EQ(QualityTally{}.divergence_at(0.95), 0);
}

TEST(QualityTally, WhatIsNoNumberIsAnError) {
  QualityTally tally;
  const float reference[] = {0.0f, 1.0f};
  const float row[] = {0.0f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(tally.add(reference, row, 0), Error);
}

class Quality : public ::testing::Test {
 protected:
  static constexpr int kTokens = 640, kSteps = 64, kGreedy = 8;

  Quality()
      : model_(open_for_test(write_tiny_model({.layers = 4, .name = "quality"}, ::testing::TempDir()))),
        device_(make_cpu_device({.threads = 2})),
        tokens_(random_ids(31, kTokens, model_.spec.shape.vocab)) {
    options_.context = quality_context(kTokens, kSteps);
    options_.sequences = 2;
    options_.device_bytes = 512 << 20;
  }

  std::unique_ptr<Engine> engine(const KvSelection& selection, int sequences = 2) {
    Options options = options_;
    options.selection = selection;
    options.sequences = sequences;
    Plan plan = make_plan({.options = options,
                           .spec = model_.spec,
                           .checkpoint = model_.checkpoint,
                           .device = *device_,
                           .ops = device_->ops(),
                           .limits = {}});
    auto made = std::make_unique<Engine>(model_, options, std::move(plan), *device_, OnProgress{});
    made->set_only_check(false);
    return made;
  }
  QualityWindow window(bool checks = false) const {
    return {.tokens = tokens_, .steps = kSteps, .next = 7, .greedy = kGreedy, .checks = checks};
  }
  static KvSelection oracle() { return {.selector = KvSelector::oracle, .tokens = 128, .only_check = true}; }

  Model model_;
  std::unique_ptr<Device> device_;
  std::vector<int32_t> tokens_;
  Options options_;
};

TEST_F(Quality, TheFullCacheDiffersInNothingFromItself) {
  auto full = engine({});
  ReferenceRows reference;
  const QualityCost cost = measure_window(*full, window(), reference, nullptr, {});
  EXPECT_EQ(cost.decode.tokens, kSteps);
  EXPECT_EQ(cost.chosen.granules, 0u);
  ASSERT_EQ(reference.logits.size(), static_cast<size_t>(kSteps) * model_.spec.shape.vocab);
  QualityTally tally;
  measure_window(*full, window(), reference, &tally, {});
  EXPECT_EQ(tally.mean_divergence(), 0.0);
  EXPECT_EQ(tally.same_top, kSteps);
  EXPECT_EQ(tally.scored, kSteps);
  EXPECT_EQ(tally.greedy_same, kGreedy);

  // The rows are those of plain decoding.
  full.reset();
  const auto plain = engine({}, 1);
  const SequenceId sequence = plain->open_sequence();
  plain->prefill(sequence, std::span(tokens_).first(kTokens - kSteps), 0, true, {});
  for (int step = 0; step < kSteps; ++step) {
    const auto row = plain->decode(sequence, tokens_[kTokens - kSteps + step], false);
    ASSERT_THAT(std::vector<float>(row.begin(), row.end()), ElementsAreArray(reference.row(step))) << step;
  }
}

TEST_F(Quality, APolicyIsMeasuredOnItsOwnDecodeSteps) {
  ReferenceRows reference;
  measure_window(*engine({}), window(), reference, nullptr, {});
  const auto choosing = engine(oracle());
  QualityTally tally;
  const QualityCost cost = measure_window(*choosing, window(true), reference, &tally, {});
  EXPECT_GT(tally.mean_divergence(), 0.0);
  EXPECT_LT(tally.mean_divergence(), 1.0);
  EXPECT_GT(cost.chosen.granules, 0u);
  // Two of four layers choose 128 of each of the positions.
  const uint64_t heads = 2 * static_cast<uint64_t>(model_.spec.shape.kv_heads) * kSteps;
  EXPECT_LE(cost.chosen.tokens, 128 * heads);
  EXPECT_GT(cost.chosen.tokens, 120 * heads);
  // The greedy continuation and the look at everything are not in it.
  EXPECT_EQ(cost.chosen.granules, 32 * heads);
  EXPECT_GT(cost.missed.mean(), 0.0);
  EXPECT_LT(cost.missed.mean(), 1.0);
  EXPECT_EQ(cost.missed.heads, 2ull * model_.spec.shape.heads * kSteps);

  // Where everything was looked at, the answers were the full cache's.
  choosing->set_only_check(true);
  QualityTally looked;
  measure_window(*choosing, window(), reference, &looked, {});
  EXPECT_EQ(looked.mean_divergence(), 0.0);
}

TEST_F(Quality, AContinuationGoesOnFromItsPrompt) {
  options_.context = kTokens + kPageTokens;
  const auto full = engine({}, 1);
  const std::vector<int32_t> one = continue_greedily(*full, tokens_, kTokens - 20, 6, {});
  const std::vector<int32_t> other = continue_greedily(*full, tokens_, kTokens - 1, 6, {});
  EXPECT_EQ(one.size(), 6u);
  EXPECT_EQ(one, other);
}

TEST_F(Quality, ContextIsJustWhatTheForksTake) {
  EXPECT_EQ(quality_context(4096, 256), 4096);
  EXPECT_EQ(quality_context(640, 64), 640);
  // 576 + 1 tokens, the last page copied and grown by 63: 640 + 64.
  EXPECT_EQ(quality_context(640, 63), 704);
  options_.context = quality_context(kTokens, 63);
  ReferenceRows reference;
  QualityWindow odd = window();
  odd.steps = 63;
  EXPECT_NO_THROW(measure_window(*engine({}), odd, reference, nullptr, {}));
}

}  // namespace
}  // namespace spillway
