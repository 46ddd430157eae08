// The number of sequences that share a pass: as many as pay by simulated time, and as the budgets hold.
#include "runtime/batch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/planner.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

class BatchPlanTest : public ::testing::Test {
 protected:
  BatchPlanTest()
      : model_(open_for_test(write_tiny_model({.layers = 12,
                                               .hidden = 256,
                                               .heads = 4,
                                               .kv_heads = 2,
                                               .head_dim = 64,
                                               .ffn = 1024,
                                               .type = DType::q4_0,
                                               .name = "batch_plan"},
                                              ::testing::TempDir()))),
        device_(make_cpu_device({.threads = 2})) {}

  MakePlan make(const Limits& limits) const {
    return [this, limits](const Options& options) -> std::optional<Plan> {
      try {
        return make_plan({.options = options,
                          .spec = model_.spec,
                          .checkpoint = model_.checkpoint,
                          .device = *device_,
                          .ops = device_->ops(),
                          .limits = limits,
                          .process_bytes = 0});
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::fit) throw;
        return std::nullopt;
      }
    };
  }
  static Options budget(uint64_t bytes) {
    Options options;
    options.device_bytes = bytes;
    options.chunk = 64;
    return options;
  }

  Model model_;
  std::unique_ptr<Device> device_;
};

const Limits kMeasured{.disk_read = 1e9, .link = 10e9, .weight_bytes = 10e9, .prefill_flops = 1e12};

TEST_F(BatchPlanTest, MoreSequencesUntilComputingBinds) {
  Limits limits = kMeasured;
  limits.disk_read = 1e7;  // all is to be had from passes that many share
  const BatchWishes wishes{.positions = 128};
  const auto slow_disk = plan_batch(budget(4 << 20), wishes, make(limits));
  ASSERT_TRUE(slow_disk);
  ASSERT_TRUE(slow_disk->plan.streams_weights());
  const auto alone = make(limits)(batch_options(budget(4 << 20), wishes, 1));
  EXPECT_GT(slow_disk->plan.batch, 1);
  EXPECT_GT(slow_disk->plan.expected.decode_tps, 1.5 * alone->expected.decode_tps);
  EXPECT_THAT(slow_disk->plan.reasons.back(), ::testing::HasSubstr("sequences in a pass"));
  for (const Tier tier : {Tier::device, Tier::host}) {
    EXPECT_LE(slow_disk->plan.tier(tier).total(), slow_disk->plan.tier(tier).budget);
  }
  // Where multiplying is what costs, nothing is shared.
  limits = kMeasured;
  limits.prefill_flops = 1e8;
  const auto slow_compute = plan_batch(budget(1 << 30), wishes, make(limits));
  ASSERT_TRUE(slow_compute);
  EXPECT_LE(slow_compute->plan.batch, 2);
}

TEST_F(BatchPlanTest, NoMoreThanFit) {
  const BatchWishes wishes{.positions = 512, .mean_positions = 300};
  const auto large = plan_batch(budget(1 << 30), wishes, make(kMeasured));
  ASSERT_TRUE(large);
  EXPECT_GE(large->plan.batch, 32);
  EXPECT_GE(large->plan.context, 300 * large->plan.batch);
  EXPECT_EQ(large->plan.positions, 512);
  int last = large->plan.batch;
  for (const uint64_t bytes : {24 << 20, 12 << 20, 8 << 20}) {
    const auto fits = plan_batch(budget(bytes), wishes, make(kMeasured));
    ASSERT_TRUE(fits);
    EXPECT_LE(fits->plan.tier(Tier::device).total(), bytes);
    EXPECT_LE(fits->plan.batch, last);
    last = fits->plan.batch;
  }
  EXPECT_LT(last, large->plan.batch);
  EXPECT_FALSE(plan_batch(budget(1 << 16), wishes, make(kMeasured)));
}

// What requests may take beyond what is expected of them has the memory that nothing else wants.
TEST_F(BatchPlanTest, RoomToSpareIsGivenToTheContext) {
  BatchWishes wishes{.positions = 1024, .mean_positions = 200, .sequences = 8};
  const auto mean = plan_batch(budget(1 << 30), wishes, make(kMeasured));
  wishes.roomy_positions = 1024;
  const auto roomy = plan_batch(budget(1 << 30), wishes, make(kMeasured));
  ASSERT_TRUE(mean && roomy);
  EXPECT_EQ(mean->plan.context, 8 * 256);
  EXPECT_EQ(roomy->plan.context, 8 * 1024);
  EXPECT_EQ(roomy->options.context, roomy->plan.context);
  int between = 0, streaming = 0;
  for (uint64_t bytes = 8 << 20; bytes < 72 << 20; bytes += 4 << 20) {
    SCOPED_TRACE(bytes);
    wishes.roomy_positions = 0;
    const auto tight = plan_batch(budget(bytes), wishes, make(kMeasured));
    wishes.roomy_positions = 1024;
    const auto spare = plan_batch(budget(bytes), wishes, make(kMeasured));
    ASSERT_EQ(tight.has_value(), spare.has_value());
    if (!tight) continue;
    EXPECT_EQ(spare->plan.streams_weights(), tight->plan.streams_weights()) << "the room costs no speed";
    EXPECT_LE(spare->plan.tier(Tier::device).total(), bytes);
    streaming += tight->plan.streams_weights() ? 1 : 0;
    between += spare->plan.context > 8 * 256 && spare->plan.context < 8 * 1024 ? 1 : 0;
    if (tight->plan.streams_weights()) {
      EXPECT_EQ(spare->plan.context, tight->plan.context);
    }
  }
  EXPECT_GT(between, 0);
  EXPECT_GT(streaming, 0);
}

TEST_F(BatchPlanTest, WhatIsAskedForAndWhatIsNotKnown) {
  const auto asked = plan_batch(budget(1 << 30), {.positions = 128, .sequences = 5}, make(kMeasured));
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->plan.batch, 5);
  EXPECT_EQ(asked->options.logit_rows, 5);
  const auto unmeasured = plan_batch(budget(1 << 30), {.positions = 128}, make({}));
  ASSERT_TRUE(unmeasured);
  EXPECT_EQ(unmeasured->plan.batch, 32);
}

}  // namespace
}  // namespace spillway
