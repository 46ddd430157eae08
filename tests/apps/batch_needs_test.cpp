// What the requests of a batch need.
#include <gtest/gtest.h>

#include "apps/batch/needs.h"
#include "runtime/batch_schedule.h"

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
  const BatchWishes wishes = needs.wishes(4);
  EXPECT_EQ(wishes.positions, 1000);
  EXPECT_EQ(wishes.mean_positions, 704);
  EXPECT_EQ(wishes.roomy_positions, 704);
  EXPECT_EQ(wishes.sequences, 4);
}

// Of an answer without an end the mean has what is expected, and the longest all that it may take.
TEST(BatchNeeds, OfEndlessOnesWhatIsExpected) {
  BatchNeeds needs{.guesses = true};
  needs.add(request(10, -1), 4096);
  needs.add(request(4000, -1), 4096);
  needs.add(request(10, 100), 4096);
  EXPECT_EQ(needs.endless, 2u);
  EXPECT_EQ(needs.longest, 4096);
  EXPECT_EQ(needs.positions, 576u + 4096u + 128u);
  EXPECT_GE(576, 10 + kExpectedAnswer);
  const BatchWishes wishes = needs.wishes(4);
  EXPECT_EQ(wishes.positions, 4096);
  EXPECT_EQ(wishes.mean_positions, 1600);
  EXPECT_EQ(wishes.roomy_positions, (2 * 4096 + 128 + 2) / 3);
}

}  // namespace
}  // namespace spillway
