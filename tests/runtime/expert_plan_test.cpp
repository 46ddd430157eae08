// Plans of mixtures of experts: budgets are promises, what every token reads comes first, and experts have the rest.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/backend.h"
#include "tests/support/spec_model.h"

namespace spillway {
namespace {

class ExpertPlan : public testing::Test {
 protected:
  ExpertPlan()
      : cpu_(make_cpu_device({.threads = 1})),
        far_(*cpu_),
        model_({.layers = 6,
                .hidden = 256,
                .heads = 8,
                .kv_heads = 2,
                .head_dim = 32,
                .ffn = 512,
                .experts = 16,
                .experts_used = 4,
                .expert_ffn = 192,
                .vocab = 2000,
                .type = DType::q8_0,
                .name = "expert_plan"},
               testing::TempDir() + "/expert_plan") {
    options_.context = 512;
    options_.chunk = 64;
  }
  std::optional<Plan> plan(Device& device, uint64_t device_bytes, std::optional<uint64_t> host_bytes) {
    options_.device_bytes = device_bytes;
    options_.host_bytes = host_bytes;
    return plan_unit({.options = options_,
                      .spec = model_.spec,
                      .checkpoint = model_.checkpoint,
                      .device = device,
                      .ops = cpu_->ops(),
                      .limits = {.disk_read = 1e9, .link = 8e9, .weight_bytes = 2e10, .prefill_flops = 1e11}});
  }

  std::unique_ptr<Device> cpu_;
  FarDevice far_;
  SpecModel model_;
  Options options_;
};

TEST_F(ExpertPlan, BudgetsArePromises) {
  std::mt19937_64 random(5);
  int moving = 0, resident = 0, kept_on_host = 0, refused = 0;
  for (int i = 0; i < 300; ++i) {
    const bool far = i % 2 == 1;
    const uint64_t device = (1 << 20) + random() % (24 << 20);
    const uint64_t host = (9 << 20) + random() % (32 << 20);
    const auto made =
        plan(far ? static_cast<Device&>(far_) : *cpu_, device, far || i % 4 == 0 ? std::optional(host) : std::nullopt);
    if (!made) {
      ++refused;
      continue;
    }
    ASSERT_LE(made->tier(Tier::device).total(), device);
    if (options_.host_bytes) {
      ASSERT_LE(made->tier(Tier::host).total(), host);
    }
    ASSERT_EQ(made->expert_units.size(), 96u);
    const bool dense =
        std::all_of(made->unit_tiers.begin(), made->unit_tiers.end(), [](Tier tier) { return tier == Tier::device; });
    moving += made->moves_experts();
    resident += !made->moves_experts();
    kept_on_host += made->expert_host_slots > 0 || made->expert_tier == Tier::host;
    if (!made->moves_experts()) {
      ASSERT_EQ(made->expert_tier, Tier::device);
      ASSERT_TRUE(dense);
      continue;
    }
    ASSERT_GE(made->expert_device_slots, 2);
    ASSERT_LE(made->expert_device_slots, 96);
    ASSERT_NE(made->expert_tier, Tier::device);
    if (made->expert_device_slots > 4) {
      ASSERT_TRUE(dense) << "experts have what everything else leaves";
    }
    for (const WeightUnit& unit : made->expert_units) ASSERT_LE(unit.bytes, made->expert_slot_bytes);
    ASSERT_LT(device - made->tier(Tier::device).total(), dense ? made->expert_slot_bytes : device) << "room unused";
  }
  EXPECT_GE(moving, 60);
  EXPECT_GE(resident, 40);
  EXPECT_GE(kept_on_host, 40);
  EXPECT_GE(refused, 1);
}

TEST_F(ExpertPlan, MoreMemoryHoldsMoreAndIsExpectedToBeFaster) {
  int slots = 0;
  double tps = 0;
  for (uint64_t bytes = 4 << 20; bytes < 32 << 20; bytes += 1 << 20) {
    const auto made = plan(far_, bytes, 16 << 20);
    if (!made) continue;
    const int now = made->moves_experts() ? made->expert_device_slots : 96;
    EXPECT_GE(now, slots);
    EXPECT_GE(made->expected.decode_tps, tps * 0.999);
    slots = now;
    tps = made->expected.decode_tps;
  }
  EXPECT_EQ(slots, 96);
}

TEST_F(ExpertPlan, AUnitToEachExpert) {
  const auto made = plan(far_, 6 << 20, 64 << 20);
  ASSERT_TRUE(made && made->moves_experts());
  EXPECT_EQ(made->expert_tier, Tier::host) << "where all fit host memory they have places there";
  for (size_t i = 0; i < made->expert_units.size(); ++i) {
    const WeightUnit& unit = made->expert_units[i];
    EXPECT_EQ(unit.stage, Stage::experts);
    EXPECT_EQ(unit.layer, static_cast<int>(i) / 16);
    EXPECT_EQ(unit.expert, static_cast<int>(i) % 16);
    ASSERT_EQ(unit.slices.size(), 3u);
    EXPECT_EQ(unit.slices[0].rows, 192);
    EXPECT_EQ(unit.slices[2].rows, 256);
    EXPECT_EQ(unit.weight_bytes, 2 * 192 * row_bytes(DType::q8_0, 256) + 256 * row_bytes(DType::q8_0, 192));
  }
}

}  // namespace
}  // namespace spillway
