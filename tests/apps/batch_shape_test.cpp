// What the requests of a batch need, and what is expected of passes that they share.
#include <gtest/gtest.h>

#include "apps/batch/shape.h"

namespace spillway {
namespace {

BatchRequest request(size_t prompt, int most) {
  BatchRequest result{.prompt = std::vector<int32_t>(prompt, 1)};
  result.options.max_tokens = most;
  return result;
}

TEST(BatchNeeds, CountWholePagesUpToTheLimit) {
  BatchNeeds needs;
  needs.add(request(10, 20), 1000);
  EXPECT_EQ(needs.longest, 30);
  EXPECT_EQ(needs.positions, 64u);
  needs.add(request(100, 5000), 1000);
  EXPECT_EQ(needs.longest, 1000);
  EXPECT_EQ(needs.positions, 64u + 1024u);
  EXPECT_EQ(needs.endless, 0u);
  needs.add(request(1, -1), 1000);
  EXPECT_EQ(needs.endless, 1u);
  EXPECT_EQ(needs.requests, 3u);
  EXPECT_EQ(needs.positions, 64u + 2 * 1024u);
}

TEST(BatchNeeds, SharedPassesReadOnceAndComputeEachRow) {
  Plan plan;
  EXPECT_EQ(expected_passes(plan, 8).tokens_per_second, 0) << "not measured";
  plan.expected.bound = "disk";
  plan.expected.disk_s = 1;
  plan.expected.link_s = 0.1;
  plan.expected.compute_s = 0.05;
  plan.expected.prefill_tps = 100;
  EXPECT_DOUBLE_EQ(expected_passes(plan, 1).tokens_per_second, 1);
  EXPECT_DOUBLE_EQ(expected_passes(plan, 64).tokens_per_second, 64);
  EXPECT_STREQ(expected_passes(plan, 64).bound, "disk");
  EXPECT_DOUBLE_EQ(expected_passes(plan, 196).tokens_per_second, 196 / 2.0);
  EXPECT_STREQ(expected_passes(plan, 196).bound, "compute");
}

}  // namespace
}  // namespace spillway
