// A drive that fails while granules are fetched from it: a clear line and a clean end, or, where it only hesitates, the
// same answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "kernels/backend.h"
#include "runtime/engine.h"
#include "runtime/planner.h"
#include "tests/support/faults.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using faults::parse_fault;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kPlenty = 1ull << 30;
constexpr int kPrompt = 957;  // a page fills with the third token decoded

class SelectionFaults : public ::testing::Test {
 protected:
  SelectionFaults() : folder_(::testing::TempDir() + "/selection_spill") {
    std::filesystem::create_directories(folder_);
    path_ = write_tiny_model({.layers = 12,
                              .hidden = 64,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 64,
                              .ffn = 160,
                              .vocab = 320,
                              .type = DType::q8_0,
                              .seed = 17,
                              .name = "selection_faults"},
                             ::testing::TempDir());
  }

  // The prompt is one chunk, so that the first to read what has left the device is a decode step.
  Options options(uint64_t device_bytes) const {
    Options options;
    options.device_bytes = device_bytes;
    options.disk_bytes = 64 << 20;
    options.disk_directory = folder_;
    options.context = kPrompt + 8;
    options.chunk = kPrompt;
    options.selection = {.selector = KvSelector::rehearsal, .rank = 16, .whole_layers = 0};
    return options;
  }

  std::vector<float> decoded(uint64_t device_bytes, int steps = 6) const {
    const Model model = open_for_test(path_);
    const auto device = make_cpu_device({.threads = 1});
    Options wanted = options(device_bytes);
    PlacedRun run = run_raised(model, *device, wanted,
                               {.prompt = random_ids(1, kPrompt, 320), .decoded = random_ids(2, steps, 320)});
    if (device_bytes < kPlenty && steps > 0 && !run.covered.granules_fetched)
      throw std::runtime_error("nothing was fetched");
    return std::move(run.logits);
  }

  // In a child: 5 and the error's line where the drive fails; 0 where the answer is the one that needs no drive.
  int from_disk(const std::vector<float>& expected) const {
    try {
      const std::vector<float> logits = decoded(256 << 10);
      return std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)) == 0 ? 0 : 9;
    } catch (const Error& error) {
      std::printf("%s\n", error.what());
      return static_cast<int>(error.kind());
    }
  }

  std::string folder_, path_;
};

TEST_F(SelectionFaults, AReadThatFailsIsNamedAndEndsTheRun) {
  const std::vector<float> expected = decoded(kPlenty);
  const auto outcome =
      faults::run({parse_fault("io_uring_setup=EPERM"), parse_fault("pread64=EIO,path=selection_spill,after=3")},
                  [&] { return from_disk(expected); });
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(outcome.exit_code, static_cast<int>(ErrorKind::io)) << outcome.output;
  EXPECT_GE(outcome.injected, 1u);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("selection_spill"), HasSubstr("Input/output error")));
}

TEST_F(SelectionFaults, ADriveThatHesitatesChangesNothing) {
  const std::vector<float> expected = decoded(kPlenty);
  const auto outcome = faults::run(
      {parse_fault("io_uring_setup=EPERM"), parse_fault("pread64=EINTR,path=selection_spill,after=2,times=9")},
      [&] { return from_disk(expected); });
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_GT(outcome.injected, 9u) << "and io_uring was refused";
}

TEST_F(SelectionFaults, ASlowDriveChangesNothing) {
  const std::vector<float> expected = decoded(kPlenty);
  const auto outcome = faults::run(
      {parse_fault("io_uring_setup=EPERM"), parse_fault("pread64=SLOW,ms=20,path=selection_spill,times=30")},
      [&] { return from_disk(expected); });
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_GT(outcome.injected, 30u) << "and io_uring was refused";
}

// The page that fills while steps decode finds no room.
TEST_F(SelectionFaults, AFullDiskIsNamedAndEndsTheRun) {
  const std::vector<float> expected = decoded(kPlenty);
  const auto prompt =
      faults::run({parse_fault("io_uring_setup=EPERM"), parse_fault("pwrite64=SLOW,ms=0,path=selection_spill")}, [&] {
        decoded(256 << 10, 0);
        return 0;
      });
  if (!prompt.ran) GTEST_SKIP() << "this machine allows no system call filters";
  ASSERT_EQ(prompt.exit_code, 0) << prompt.output;
  ASSERT_GT(prompt.injected, 1u) << "the prompt's pages are written";
  const auto outcome =
      faults::run({parse_fault("io_uring_setup=EPERM"),
                   parse_fault("pwrite64=ENOSPC,path=selection_spill,after=" + std::to_string(prompt.injected - 1))},
                  [&] { return from_disk(expected); });
  EXPECT_EQ(outcome.exit_code, static_cast<int>(ErrorKind::io)) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("selection_spill"), HasSubstr("No space left on device")));
}

}  // namespace
}  // namespace spillway
