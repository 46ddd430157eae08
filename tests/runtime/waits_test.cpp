// Compute that stands still is counted by what it waits for: where a link is far too slow, most of the time is lost to
// what comes over it; where everything is on the device, none is.
#include <gtest/gtest.h>

#include <chrono>

#include "runtime/metrics.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr double kSlowLink = 10e6;  // bytes a second: a step's weights take many times as long as what reads them
constexpr int kSteps = 4;

struct Waited {
  WaitSeconds seconds;
  double length = 0;  // of the steps, which waited
  bool streams_weights = false, spills_kv = false;
};

class WaitsTest : public ::testing::Test {
 protected:
  WaitsTest()
      : model_(open_for_test(
            write_tiny_model({.layers = 4, .type = DType::q8_0, .name = "waits"}, ::testing::TempDir()))) {
    options_.chunk = 64;
    options_.context = 1024;
    options_.device_bytes = uint64_t{1} << 30;
    options_.disk_directory = ::testing::TempDir();
  }

  // By budgets that are raised until they do, or as they are.
  Waited decode(Device& device, int prompt, bool raised = true) {
    Engine engine = raised ? raised_engine(model_, options_, device) : engine_for_test(model_, options_, device);
    const SequenceId sequence = engine.open_sequence();
    engine.prefill(sequence, random_ids(3, prompt, model_.spec.shape.vocab), 0, true,
                   [](int, std::span<const float>) {});
    const WaitSeconds before = WaitSeconds::of(engine.waits());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kSteps; ++i) engine.decode(sequence, 7 + i, i + 1 < kSteps);
    Waited waited{.seconds = WaitSeconds::of(engine.waits()).since(before),
                  .length = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
                  .streams_weights = engine.plan().streams_weights(),
                  .spills_kv = engine.plan().spills_kv()};
    EXPECT_TRUE(waited.seconds.measured);
    EXPECT_LE(waited.seconds.total(), waited.length) << "one after the other";
    return waited;
  }

  Model model_;
  Options options_;
};

TEST_F(WaitsTest, NothingIsWaitedForWhereAllIsOnTheDevice) {
  const auto cpu = make_cpu_device({.threads = 2});
  const Waited waited = decode(*cpu, 100);
  ASSERT_FALSE(waited.streams_weights || waited.spills_kv);
  EXPECT_EQ(waited.seconds.total(), 0);
}

TEST_F(WaitsTest, WeightsOverASlowLink) {
  options_.device_bytes = 64 << 10;
  options_.host_bytes = 64 << 20;
  options_.kv_device_bytes = 32 << 20;
  options_.link_bytes_per_second = kSlowLink;
  options_.context = 64;
  const auto cpu = make_cpu_device({.threads = 2});
  const Waited waited = decode(*cpu, 20);
  ASSERT_TRUE(waited.streams_weights);
  EXPECT_GT(waited.seconds.of(Link::host_to_device, Cause::weights), waited.length / 2);
  EXPECT_EQ(waited.seconds.of(Link::disk_read, Cause::weights), 0) << "they are kept in host memory";
}

TEST_F(WaitsTest, WeightsFromDiskByWayOfASlowLink) {
  options_.device_bytes = 64 << 10;
  options_.host_bytes = 64 << 10;  // raised to what staging takes
  options_.link_bytes_per_second = kSlowLink;
  options_.context = 64;
  const auto cpu = make_cpu_device({.threads = 2});
  const Waited waited = decode(*cpu, 20);
  ASSERT_TRUE(waited.streams_weights);
  const double from_disk = waited.seconds.of(Link::disk_read, Cause::weights);
  const double from_host = waited.seconds.of(Link::host_to_device, Cause::weights);
  EXPECT_GT(from_disk, from_host) << "they lie on the drive, but for a few";
  EXPECT_GT(from_disk + from_host, waited.length / 2);
}

TEST_F(WaitsTest, KvOverASlowLink) {
  options_.kv_device_bytes = 64 << 10;
  options_.host_bytes = 64 << 20;
  options_.link_bytes_per_second = kSlowLink;
  const auto cpu = make_cpu_device({.threads = 2});
  const auto with_kv_on_device = [&](uint64_t bytes) -> std::optional<Waited> {
    options_.kv_device_bytes = bytes;
    try {
      return decode(*cpu, 1000, false);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::fit) throw;
      return std::nullopt;
    }
  };
  std::optional<Waited> waited;
  for (uint64_t bytes = 256 << 10; !waited && bytes < (64 << 20); bytes += bytes / 4) waited = with_kv_on_device(bytes);
  ASSERT_TRUE(waited && waited->spills_kv && !waited->streams_weights);
  EXPECT_GT(waited->seconds.of(Link::host_to_device, Cause::kv_fetch), waited->length / 2);
  EXPECT_EQ(waited->seconds.of(Link::host_to_device, Cause::weights), 0);
}

TEST_F(WaitsTest, AGpuTellsToo) {
  begin_on_gpu_under_test(1);
  const auto gpu = gpu_under_test();
  options_.device_bytes = gpu->overhead_bytes() + (64 << 10);
  options_.host_bytes = 64 << 20;
  options_.context = 64;
  const Waited waited = decode(*gpu, 20);  // whose sum is within the steps
  ASSERT_TRUE(waited.streams_weights);
}

TEST(WaitSecondsTest, TextSaysTheLongestFirst) {
  WaitClock clock;
  clock.add(arrival_of(Link::disk_read, Cause::weights), 600'000'000);
  clock.add(arrival_of(Link::host_to_device, Cause::kv_fetch), 1'250'000'000);
  clock.add(arrival_of(Link::device_to_host, Cause::kv_spill), 1'000'000);
  clock.add(0, 5'000'000'000);
  const WaitSeconds waits = WaitSeconds::of(&clock);
  EXPECT_NEAR(waits.total(), 1.851, 1e-9) << "what is not said to arrive is not counted";
  EXPECT_EQ(waits_text(waits, 3.702),
            "1.85 s (50%) for bytes on their way: kv_fetch from host 1.25 s, weights from disk 0.60 s");
  EXPECT_EQ(waits_text(WaitSeconds::of(nullptr), 1), "not measured: the device does not tell how long it stands still");
  clock.add(arrival_of(Link::disk_read, Cause::weights), 100'000'000);
  WaitSeconds since = WaitSeconds::of(&clock).since(waits);
  EXPECT_NEAR(since.total(), 0.1, 1e-9);
  since += waits;
  EXPECT_NEAR(since.of(Link::disk_read, Cause::weights), 0.7, 1e-9);
}

}  // namespace
}  // namespace spillway
