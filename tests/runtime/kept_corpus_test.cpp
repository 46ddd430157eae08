// The corpora of the fuzzers of plans and skews.
#include <algorithm>

#include "tests/fuzz/corpus.h"
#include "tests/fuzz/plan_file_case.h"
#include "tests/fuzz/skew_case.h"

namespace spillway {
namespace {

TEST(PlanFileCorpus, EndsInAPlanThatIsSoundOrInAnError) {
  const auto run = [](std::span<const std::byte> bytes) { return std::max(try_plan(bytes), 0); };
  EXPECT_GE(run_corpus("plan_file", 11, run), 10);
}

TEST(SkewCorpus, EndsInASkewOrInErrorModel) { EXPECT_GE(run_corpus("skew", 8, try_skew), 4); }

}  // namespace
}  // namespace spillway
