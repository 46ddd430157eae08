// A GPU has other users: memory that was free when a run was planned may be gone when it is reserved. On the emulated
// module, whose device then has as much left as the test says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>

#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = 1 << 20;
constexpr char kPlannedAgain[] = "less is left than when it was planned; planning again";

class GpuMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    // 13 MiB of weights.
    model_ = write_tiny_model({.layers = 4,
                               .hidden = 128,
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 64,
                               .ffn = 7168,
                               .vocab = 320,
                               .context = 4096,
                               .type = DType::q8_0,
                               .seed = 4,
                               .name = "gpu_memory"},
                              program_.folder().string());
  }
  void TearDown() override { unsetenv(kLeft); }

  Result run(const std::vector<std::string>& more) const {
    std::vector<std::string> command{
        "generate", "-m", model_, "--device", "cuda", "--cuda-module", EMULATED_MODULE, "-p", "A B C", "-n", "2", "-ub",
        "16",       "-c", "64",   "--temp",   "0",    "--ignore-eos"};
    command.insert(command.end(), more.begin(), more.end());
    return program_.run(command, 300);
  }

  static constexpr char kLeft[] = "SPILLWAY_CUDA_EMULATION_LEFT";
  Program program_;
  std::string model_;
};

TEST_F(GpuMemory, APlanOfOurOwnIsDrawnUpAgain) {
  const Result before = run({});
  ASSERT_EQ(before.exit_code, 0) << before.err;
  EXPECT_THAT(before.err, Not(HasSubstr(kPlannedAgain)));
  EXPECT_THAT(before.err, Not(HasSubstr("in host RAM")));
  setenv(kLeft, std::to_string(12 * kMiB).c_str(), 1);
  const Result after = run({});
  ASSERT_EQ(after.exit_code, 0) << after.err;
  EXPECT_THAT(after.err, HasSubstr(kPlannedAgain));
  EXPECT_THAT(after.err, HasSubstr("in host RAM")) << "the weights that were to lie on the device";
  EXPECT_EQ(after.out, before.out);
}

TEST_F(GpuMemory, ABudgetThatWasGivenIsRefusedWithOneThatFits) {
  setenv(kLeft, std::to_string(12 * kMiB).c_str(), 1);
  const Result refused = run({"--device-mem", "64MiB"});
  EXPECT_EQ(refused.exit_code, 4) << refused.err;
  EXPECT_EQ(refused.out, "");
  EXPECT_THAT(refused.err, Not(HasSubstr(kPlannedAgain)));
  EXPECT_THAT(refused.err, HasSubstr(std::to_string(12 * kMiB) + " bytes are free now"));
  std::smatch nearest;
  ASSERT_TRUE(std::regex_search(refused.err, nearest, std::regex("nearest fit: --device-mem (\\d+MiB)")))
      << refused.err;
  const Result fits = run({"--device-mem", nearest[1].str()});
  EXPECT_EQ(fits.exit_code, 0) << fits.err;
  EXPECT_THAT(fits.err, Not(HasSubstr(kPlannedAgain)));
}

}  // namespace
}  // namespace spillway
