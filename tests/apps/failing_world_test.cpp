// The built program where the world fails: full and unreadable drives, system calls that are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/apps/cli.h"
#include "tests/support/faults.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FailingWorld : public Cli {
 protected:
  std::vector<std::string> spilling(int tokens) {
    return {"generate",
            "-m",
            model_,
            "-f",
            prompt_file(1200),
            "-n",
            std::to_string(tokens),
            "--temp",
            "0",
            "--ignore-eos",
            "--device-mem",
            tight_budget(7200),
            "--disk-mem",
            "64MiB",
            "--disk-dir",
            folder_.string(),
            "--json"};
  }
};

TEST_F(FailingWorld, AFullDriveEndsCleanly) {
  SKIP_UNDER_SANITIZERS();
  // Writes by threads, so that the filter sees them; the drive is full after some.
  const auto outcome = run_faulty(
      {faults::parse_fault("io_uring_setup=EPERM"), faults::parse_fault("pwrite64=ENOSPC,after=4")}, spilling(4));
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  ASSERT_GT(outcome.injected, 1u) << outcome.output;
  EXPECT_EQ(outcome.exit_code, 5) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("no space left"));
  EXPECT_THAT(outcome.output, HasSubstr("--disk-dir"));
}

TEST_F(FailingWorld, AFullDriveAtStartIsNamed) {
  SKIP_UNDER_SANITIZERS();
  const auto outcome = run_faulty({faults::parse_fault("fallocate=ENOSPC")}, spilling(4));
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(outcome.exit_code, 5) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(folder_.string()));
  EXPECT_THAT(outcome.output, HasSubstr("--disk-dir"));
}

TEST_F(FailingWorld, AnUnreadableDriveIsNamedWithItsOffset) {
  SKIP_UNDER_SANITIZERS();
  const auto outcome = run_faulty(
      {faults::parse_fault("io_uring_setup=EPERM"), faults::parse_fault("pread64=EIO,path=program.gguf,from=65536")},
      {"generate", "-m", model_, "-p", "hello", "-n", "3", "--temp", "0"});
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(outcome.exit_code, 5) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("program.gguf"));
}

TEST_F(FailingWorld, RefusedIoUringAndLockedMemoryAreSaidAndChangeNothing) {
  SKIP_UNDER_SANITIZERS();
  const Result expected = run(spilling(6));
  ASSERT_EQ(expected.exit_code, 0) << expected.err;
  const auto tokens = nlohmann::json::parse(expected.out)["tokens"];
  for (const char* fault : {"io_uring_setup=EPERM", "io_uring_register=ENOMEM,arg1=0", "mlock=ENOMEM"}) {
    const auto outcome = run_faulty({faults::parse_fault(fault)}, spilling(6));
    if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const std::string json = outcome.output.substr(outcome.output.find("{\"bytes\""));
    EXPECT_EQ(nlohmann::json::parse(json.substr(0, json.find('\n')))["tokens"], tokens) << fault;
    if (std::string(fault).starts_with("io_uring")) {
      EXPECT_THAT(outcome.output, ::testing::ContainsRegex("disk: [^\n]*\\(")) << "the reason is said";
    }
  }
}

TEST_F(FailingWorld, KvBeyondWhatTheFolderHasFreeIsRefusedBeforeItIsReserved) {
  // 16 KiB of KV a position, and a few bytes of workspace.
  const std::string large = write_tiny_model({.layers = 16,
                                              .hidden = 32,
                                              .heads = 1,
                                              .kv_heads = 1,
                                              .head_dim = 256,
                                              .ffn = 32,
                                              .type = DType::f16,
                                              .seed = 9,
                                              .name = "large"},
                                             folder_.string());
  const uint64_t free = fs::space(folder_).available;
  const uint64_t positions = (free + free / 4 + (1 << 30)) / (16 << 10);
  if (positions > 1 << 28) GTEST_SKIP() << "the drive has more free than any context fills";
  const std::vector<std::string> flags{
      "-m",           large,    "--device",   "reference", "-c",         std::to_string(positions),
      "--device-mem", "512MiB", "--disk-mem", "1000TiB",   "--disk-dir", folder_.string()};
  std::vector<std::string> plan{"plan"}, generate{"generate", "-p", "x", "-n", "1"};
  for (auto* command : {&plan, &generate}) {
    command->insert(command->end(), flags.begin(), flags.end());
    // Nothing is reserved on a drive that others use, whatever comes of this.
    const auto outcome = run_faulty({faults::parse_fault("fallocate=ENOSPC")}, *command);
    if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
    EXPECT_EQ(outcome.exit_code, 4) << outcome.output;
    EXPECT_EQ(outcome.injected, 0u);
    EXPECT_THAT(outcome.output, ::testing::ContainsRegex("\\([0-9]+ bytes\\) are free in " + folder_.string()));
  }
  // Nor is it offered there.
  plan.insert(plan.end(), {"--disk-mem", "100%"});
  const Result share = run(plan);
  EXPECT_EQ(share.exit_code, 4) << share.out;
  EXPECT_THAT(share.err,
              ::testing::ContainsRegex("or --disk-mem [0-9]+MiB in another --disk-dir \\([0-9]+ bytes are free"));
}

}  // namespace
}  // namespace spillway
