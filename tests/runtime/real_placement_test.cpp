// Placement never changes the answer, on the real model: a prompt of five spans and decode steps, weights from disk and
// KV in two or three tiers, to the bit.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/backend.h"
#include "kernels/kv_span.h"
#include "tests/support/placed_run.h"
#include "tests/support/real_model.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct Budgets {
  uint64_t device_mib, host_mib, disk_mib;
};

TEST(RealPlacement, NeverChangesTheLogits) {
#ifdef SPILLWAY_SANITIZED
  GTEST_SKIP() << "the tiny models take the sanitizers over the same code";
#endif
  if (real_model().empty()) GTEST_SKIP() << kNoRealModel;
  const Model model = open_for_test(real_model());
  const PlacedWork work{.prompt = random_ids(21, 4 * kSpanTokens + 41, model.spec.shape.vocab),
                        .decoded = random_ids(22, 2, model.spec.shape.vocab)};
  Options options;
  options.context = static_cast<int>(work.prompt.size() + work.decoded.size());
  options.disk_directory = ::testing::TempDir();
  options.device_bytes = 1024 * kMiB;
  const auto device = make_cpu_device({});
  const PlacedRun expected = run_placed(model, *device, options, work);
  EXPECT_FALSE(expected.covered.layer_from_disk || expected.covered.layer_kv_in_two_tiers);

  int both = 0;
  for (const Budgets& budgets : {Budgets{80, 0, 0}, Budgets{40, 0, 64}, Budgets{40, 64, 0}, Budgets{44, 24, 64},
                                 Budgets{60, 96, 0}, Budgets{100, 0, 64}}) {
    options.device_bytes = budgets.device_mib * kMiB;
    options.host_bytes = budgets.host_mib > 0 ? std::optional<uint64_t>(budgets.host_mib * kMiB) : std::nullopt;
    options.disk_bytes = budgets.disk_mib * kMiB;
    const PlacedRun run = run_placed(model, *device, options, work);
    both += run.covered.layer_from_disk && run.covered.layer_kv_in_two_tiers;
    EXPECT_GE(run.covered.spans, 5);
    EXPECT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), expected.logits.size() * sizeof(float)), 0)
        << "--device-mem " << budgets.device_mib << "MiB --host-mem " << budgets.host_mib << "MiB --disk-mem "
        << budgets.disk_mib << "MiB";
  }
  EXPECT_GE(both, 3);
}

}  // namespace
}  // namespace spillway
