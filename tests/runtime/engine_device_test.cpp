// An engine has its device for itself: two on one would compute in each other's scratch.
#include <gtest/gtest.h>

#include <memory>

#include "kernels/backend.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

void expect_one_engine_at_a_time(Device& device) {
  const Model model = open_for_test(write_tiny_model({.name = "engine_device"}, ::testing::TempDir()));
  Options options;
  options.device_bytes = device.overhead_bytes() + (64 << 20);
  options.host_bytes = 64 << 20;
  options.context = 64;
  for (int i = 0; i < 2; ++i) {
    Engine engine = engine_for_test(model, options, device);
    const SequenceId sequence = engine.open_sequence();
    EXPECT_FALSE(engine.decode(sequence, 1, false).empty());
    EXPECT_DEATH(engine_for_test(model, options, device), "internal error: data == nullptr");
  }
}

TEST(EngineDevice, OneEngineAtATimeOnACpu) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  expect_one_engine_at_a_time(*make_cpu_device({.threads = 1}));
}

TEST(EngineDevice, OneEngineAtATimeOnAGpu) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  begin_on_gpu_under_test(1);
  expect_one_engine_at_a_time(*gpu_under_test());
}

}  // namespace
}  // namespace spillway
