// Layers divided between a device and the CPU beside it: every plan holds all layers once and stays inside the budgets;
// what is refused is refused with a number that fits; left open, the division is the fastest that was found.
#include "runtime/layer_split.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <regex>

#include "kernels/backend.h"
#include "runtime/engine.h"
#include "tests/support/placed_run.h"
#include "tests/support/spec_model.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class LayerSplitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::path(::testing::TempDir()) / "layer_split_test.holes").string();
    near_ = make_cpu_device({.threads = 2});
    far_ = std::make_unique<FarDevice>(*near_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  // limits: of the device; host_limits: of the CPU beside it.
  Plan plan(const SpecModel& model, const Options& options, const Limits& limits = {}, const Limits& host_limits = {}) {
    const HostUnit host{*near_, near_->ops(), host_limits};
    return make_plan({.options = options,
                      .spec = model.spec,
                      .checkpoint = model.checkpoint,
                      .device = *far_,
                      .ops = near_->ops(),
                      .limits = limits,
                      .process_bytes = 3 * kMiB,
                      .host = &host});
  }

  static void expect_whole(const SpecModel& model, const Plan& plan, const Options& options) {
    const Plan* cpu = plan.before.empty() ? nullptr : &plan.before.front();
    EXPECT_EQ(plan.last_layer, model.spec.shape.layers);
    EXPECT_EQ(plan.first_layer, cpu == nullptr ? 0 : cpu->last_layer);
    EXPECT_TRUE(plan.head);
    std::map<std::pair<int, Stage>, int64_t> rows;
    uint64_t weights = plan.small_bytes + (cpu == nullptr ? 0 : cpu->small_bytes);
    const auto count = [&](const Plan& unit) {
      for (const WeightUnit& weight : unit.units) {
        weights += weight.bytes;
        for (const WeightSlice& slice : weight.slices) {
          rows[{weight.stage == Stage::head ? -1 : unit.first_layer + weight.layer, weight.stage}] += slice.rows;
        }
      }
    };
    count(plan);
    if (cpu != nullptr) {
      EXPECT_FALSE(cpu->head);
      EXPECT_EQ(cpu->first_layer, 0);
      EXPECT_EQ(cpu->context, plan.context);
      EXPECT_EQ(cpu->chunk, plan.chunk);
      count(*cpu);
    }
    const ModelShape& shape = model.spec.shape;
    ASSERT_EQ(rows.size(), static_cast<size_t>(4 * shape.layers + 1));
    for (int layer = 0; layer < shape.layers; ++layer) {
      EXPECT_EQ((rows[{layer, Stage::qkv}]), shape.q_width() + 2 * shape.kv_width()) << layer;
      EXPECT_EQ((rows[{layer, Stage::down}]), shape.hidden) << layer;
    }
    EXPECT_EQ((rows[{-1, Stage::head}]), shape.vocab);
    uint64_t tiers = 0;
    for (const TierPlan& tier : plan.tiers) tiers += tier.weights;
    EXPECT_EQ(tiers, weights);
    EXPECT_EQ(plan.tier(Tier::device).budget, *options.device_bytes);
    EXPECT_EQ(plan.tier(Tier::host).budget, *options.host_bytes);
    EXPECT_LE(plan.tier(Tier::device).total(), *options.device_bytes);
    EXPECT_LE(plan.tier(Tier::host).total(), *options.host_bytes);
    EXPECT_LE(plan.tier(Tier::disk).kv, options.disk_bytes);
  }

  static Options with_budgets(uint64_t device, uint64_t host, int context = 256) {
    Options options;
    options.device_bytes = device;
    options.host_bytes = host;
    options.context = context;
    options.chunk = 64;
    return options;
  }

  std::string path_;
  std::unique_ptr<Device> near_;
  std::unique_ptr<FarDevice> far_;
};

TEST_F(LayerSplitTest, AnyDivisionHoldsAllLayersInsideTheBudgets) {
  std::mt19937_64 random(11);
  std::map<std::string, int> counts;
  const auto upto = [&](uint64_t n) { return random() % n; };
  for (int i = 0; i < 300; ++i) {
    const SpecModel model(random_shape(random), path_);
    const uint64_t all = model.weight_bytes() + model.kv_bytes(4096);
    Options options = with_budgets(kMiB + upto(2 * all), 10 * kMiB + upto(2 * all), 1 + static_cast<int>(upto(4096)));
    options.disk_bytes = upto(3) == 0 ? all : 0;
    options.device_layers = static_cast<int>(upto(model.spec.shape.layers + 2));
    SCOPED_TRACE(::testing::Message() << "case " << i << ": -ngl " << *options.device_layers << " of "
                                      << model.spec.shape.layers << " --device-mem " << *options.device_bytes
                                      << " --host-mem " << *options.host_bytes);
    try {
      const Plan made = plan(model, options);
      expect_whole(model, made, options);
      EXPECT_EQ(made.last_layer - made.first_layer, std::min(*options.device_layers, model.spec.shape.layers));
      counts["planned"] += 1;
      if (made.before.empty()) continue;
      counts["divided"] += 1;
      counts["the CPU's weights stream"] += made.before.front().streams_weights();
      counts["the CPU's KV spills"] += made.before.front().spills_kv();
      counts["the device's weights stream"] += made.streams_weights();
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::fit) << error.what();
      counts["refused"] += 1;
      std::cmatch match;
      if (!std::regex_search(error.what(), match, std::regex("nearest fit: -ngl ([0-9]+)$"))) continue;
      options.device_layers = std::stoi(match[1]);
      expect_whole(model, plan(model, options), options);
      counts["refused with a division that fits"] += 1;
    }
  }
  for (const auto& [what, count] : counts) std::printf("  %5d  %s\n", count, what.c_str());
  for (const char* what : {"planned", "divided", "the CPU's weights stream", "the CPU's KV spills",
                           "the device's weights stream", "refused", "refused with a division that fits"}) {
    EXPECT_GE(counts[what], 3) << what;
  }
}

// 8 layers; a device that has room for about half of them.
class FastestDivision : public LayerSplitTest {
 protected:
  FastestDivision()
      : shape_{.layers = 8, .hidden = 512, .heads = 8, .kv_heads = 2, .head_dim = 64, .ffn = 2048, .vocab = 1024} {}
  Plan fastest(const Limits& device, const Limits& cpu) {
    const SpecModel model(shape_, path_);
    const Options options = with_budgets(model.weight_bytes() / 2, 4 * model.weight_bytes());
    Plan made = plan(model, options, device, cpu);
    expect_whole(model, made, options);
    return made;
  }
  TinyModelOptions shape_;
};

TEST_F(FastestDivision, ASlowLinkLeavesLayersToTheCpu) {
  const Limits gpu{.disk_read = 1e9, .link = 1e9, .weight_bytes = 500e9, .prefill_flops = 50e12};
  const Limits cpu{.disk_read = 1e9, .link = 1e9, .weight_bytes = 50e9, .prefill_flops = 5e12};
  const Plan made = fastest(gpu, cpu);
  EXPECT_GT(made.first_layer, 0);
  EXPECT_FALSE(made.streams_weights()) << "what does not fit the device is computed where it lies";
}

TEST_F(FastestDivision, AFastLinkLeavesNone) {
  const Limits gpu{.disk_read = 1e9, .link = 50e9, .weight_bytes = 500e9, .prefill_flops = 50e12};
  const Limits cpu{.disk_read = 1e9, .link = 50e9, .weight_bytes = 20e9, .prefill_flops = 1e11};
  EXPECT_EQ(fastest(gpu, cpu).first_layer, 0);
}

TEST_F(FastestDivision, WhereNothingIsKnownTheDeviceComputesAll) { EXPECT_EQ(fastest({}, {}).first_layer, 0); }

TEST_F(FastestDivision, PredictedIsTheSumOfBoth) {
  const Limits gpu{.disk_read = 1e9, .link = 1e9, .weight_bytes = 500e9, .prefill_flops = 50e12};
  const Limits cpu{.disk_read = 1e9, .link = 1e9, .weight_bytes = 50e9, .prefill_flops = 5e12};
  const Plan made = fastest(gpu, cpu);
  ASSERT_EQ(made.before.size(), 1u);
  ASSERT_FALSE(made.streams_weights());
  const double both = made.expected.compute_s;
  EXPECT_GT(both, made.before.front().expected.compute_s);
  EXPECT_NEAR(1 / made.expected.decode_tps, both, 0.01 * both);
  EXPECT_LE(made.expected.prefill_tps, made.before.front().expected.prefill_tps);
}

// The two units spill at different times: what one cannot cut in a page, the other drops too.
TEST(LayerSplitEngine, ACutIsTheSameInBothUnits) {
  const Model model = open_for_test(write_tiny_model({.layers = 4, .name = "split_cut"}, ::testing::TempDir()));
  const int context = 1024;
  const auto device = make_cpu_device({.threads = 1});
  const auto cpu = make_cpu_device({.threads = 1});
  const auto made = [&](const Options& options) { return plan_for_test(model, options, *device, cpu.get()); };
  Options options;
  options.disk_directory = ::testing::TempDir();
  options.context = context;
  options.chunk = 64;
  options.device_layers = 2;
  options.device_bytes = uint64_t{1} << 30;
  options.disk_bytes = uint64_t{1} << 30;
  options.host_bytes = uint64_t{1} << 30;
  Plan plan = made(options);
  // Less and less, until the CPU's KV goes to disk; the device's stays.
  for (options.host_bytes = plan.tier(Tier::host).total(); !plan.before.front().spills_kv(); plan = made(options)) {
    *options.host_bytes -= 16 << 10;
  }
  ASSERT_FALSE(plan.spills_kv());
  ASSERT_TRUE(plan.before.front().spills_kv());

  const std::vector<int32_t> ids = random_ids(3, context - 8, model.spec.shape.vocab);
  const auto run = [&](int cut_to) {
    Engine engine(model, options, plan, {*device, cpu.get()}, {});
    const SequenceId sequence = engine.open_sequence();
    engine.prefill(sequence, ids, 1, true, [](int, std::span<const float>) {});
    int left = engine.tokens(sequence);
    if (cut_to >= 0) {
      left = engine.truncate_sequence(sequence, cut_to);
      EXPECT_LE(left, cut_to);
      EXPECT_GT(left, cut_to - kPageTokens);
      EXPECT_EQ(engine.tokens(sequence), left);
      const std::span<const int32_t> rest = std::span(ids).subspan(static_cast<size_t>(left));
      engine.prefill(sequence, rest, 1, true, [](int, std::span<const float>) {});
    }
    const std::span<const float> row = engine.decode(sequence, 5, false);
    return std::vector<float>(row.begin(), row.end());
  };
  const std::vector<float> expected = run(-1);
  for (const int cut : {context - 20, 700, 333, 64, 10}) {
    const std::vector<float> got = run(cut);
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), expected.size() * sizeof(float)), 0) << "cut to " << cut;
  }
}

}  // namespace
}  // namespace spillway
