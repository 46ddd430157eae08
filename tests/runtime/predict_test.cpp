// What a plan is expected to run at: the schedule's own time lies between what each resource needs alone and what all
// need one after the other, and room on the device is never wasted.
#include "runtime/predict.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "memory/kv/layout.h"
#include "runtime/planner.h"
#include "tests/support/spec_model.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr double kRounding = 1e-9;

class PredictTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::path(::testing::TempDir()) / "predict_test.holes").string();
    device_ = make_cpu_device({.threads = 2});
  }
  void TearDown() override { std::filesystem::remove(path_); }

  static Limits random_limits(std::mt19937_64& random) {
    const auto speed = [&](double least) { return least * (1 + static_cast<double>(random() % 100)); };
    return {.disk_read = speed(1e8), .link = speed(5e8), .weight_bytes = speed(1e9), .prefill_flops = speed(1e10)};
  }

  std::optional<Plan> plan(const SpecModel& model, const Options& options, const Limits& limits) const {
    try {
      return make_plan({.options = options,
                        .spec = model.spec,
                        .checkpoint = model.checkpoint,
                        .device = *device_,
                        .ops = device_->ops(),
                        .limits = limits,
                        .process_bytes = 0});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::fit);
      return std::nullopt;
    }
  }

  std::string path_;
  std::unique_ptr<Device> device_;
};

// Seconds of each resource, counted anew from the plan.
struct Alone {
  double disk = 0, link = 0, compute = 0;
  double most() const { return std::max({disk, link, compute}); }
  double sum() const { return disk + link + compute; }
};

void add_streamed(Alone& alone, const Plan& plan, const Limits& limits, Tier tier, double bytes) {
  if (tier == Tier::disk) alone.disk += bytes / limits.disk_read;
  if (tier == Tier::host || (tier == Tier::disk && plan.staged)) alone.link += bytes / limits.link;
}

Alone decode_alone(const Plan& plan, const ModelShape& shape, const Limits& limits) {
  Alone alone;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    alone.compute += static_cast<double>(plan.units[i].weight_bytes) / limits.weight_bytes;
    add_streamed(alone, plan, limits, plan.unit_tiers[i], static_cast<double>(plan.units[i].bytes));
  }
  const double row = static_cast<double>(KvLayout(shape).row_bytes());
  alone.compute += row * page_rows(plan.context) * shape.layers / limits.weight_bytes;
  add_streamed(alone, plan, limits, Tier::host, row * plan.kv_host_slots.full);
  add_streamed(alone, plan, limits, Tier::disk, row * plan.kv_disk_slots.full);
  return alone;
}

// Of a full chunk: products over all its rows, the head over one.
Alone prefill_alone(const Plan& plan, const Limits& limits) {
  Alone alone;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    const WeightUnit& unit = plan.units[i];
    double elements = 0;
    for (const WeightSlice& slice : unit.slices) elements += static_cast<double>(slice.rows) * slice.cols;
    alone.compute += unit.stage == Stage::head ? unit.weight_bytes / limits.weight_bytes
                                               : 2 * elements * plan.chunk / limits.prefill_flops;
    add_streamed(alone, plan, limits, plan.unit_tiers[i], static_cast<double>(unit.bytes));
  }
  return alone;
}

Options random_options(std::mt19937_64& random, const SpecModel& model) {
  const auto upto = [&](uint64_t n) { return random() % n; };
  Options o;
  o.context = 1 + static_cast<int>(upto(1 + upto(20'000)));
  o.chunk = 1 + static_cast<int>(upto(600));
  o.lookahead = static_cast<int>(upto(4));
  const uint64_t all = model.weight_bytes() + model.kv_bytes(o.context) + 32 * kMiB;
  o.device_bytes = upto(all + all / 8);
  if (upto(2) == 0) o.host_bytes = 8 * kMiB + upto(all);
  if (upto(2) == 0) o.disk_bytes = 2 * model.kv_bytes(o.context);
  return o;
}

TEST_F(PredictTest, LiesBetweenEachResourceAloneAndAllInTurn) {
  std::mt19937_64 random(31);
  int resident = 0, streamed = 0, spilled = 0, staged = 0, hidden = 0, exposed = 0;
  for (int i = 0; i < 1500; ++i) {
    const SpecModel model(random_shape(random), path_);
    const Options options = random_options(random, model);
    const Limits limits = random_limits(random);
    const std::optional<Plan> found = plan(model, options, limits);
    if (!found) continue;
    SCOPED_TRACE(fmt::format("case {}: --device-mem {} --host-mem {} -c {}", i, *options.device_bytes,
                             options.host_bytes.value_or(0), options.context));
    const Expected& e = found->expected;
    const Alone decode = decode_alone(*found, model.spec.shape, limits);
    EXPECT_NEAR(e.disk_s, decode.disk, kRounding * decode.disk);
    EXPECT_NEAR(e.link_s, decode.link, kRounding * decode.link);
    EXPECT_NEAR(e.compute_s, decode.compute, kRounding * decode.compute);
    const double step = 1 / e.decode_tps;
    ASSERT_GE(step, decode.most() * (1 - kRounding));
    ASSERT_LE(step, decode.sum() * (1 + kRounding));
    const double most = decode.most();
    const double bound = e.bound == "disk" ? decode.disk : e.bound == "link" ? decode.link : decode.compute;
    ASSERT_GE(bound, most * (1 - kRounding)) << e.bound << " is not what binds";

    const Alone prefill = prefill_alone(*found, limits);
    const double chunk_s = found->chunk / e.prefill_tps;
    ASSERT_GE(chunk_s, prefill.most() * (1 - kRounding));
    ASSERT_LE(chunk_s, prefill.sum() * (1 + kRounding));
    if (!found->streams_weights()) {
      ASSERT_NEAR(chunk_s, prefill.compute, kRounding * chunk_s);
      if (!found->spills_kv()) {
        ASSERT_NEAR(step, decode.compute, kRounding * step) << "all resident: exactly what computing takes";
        ASSERT_EQ(e.bound, "compute");
        ++resident;
      }
    }
    streamed += found->streams_weights();
    spilled += found->spills_kv();
    staged += found->staged;
    hidden += found->streams_weights() && step < 1.02 * most;
    exposed += found->streams_weights() && step > 1.1 * most;
  }
  std::printf(
      "%d resident, %d with streamed weights, %d with spilled KV, %d staged; of those streamed %d hide all but what "
      "binds, %d do not\n",
      resident, streamed, spilled, staged, hidden, exposed);
  for (int covered : {resident, streamed, spilled, staged, hidden, exposed}) EXPECT_GE(covered, 20);
}

// A plan may be asked for of any context: of the longest ones not every group of KV is played, and the time stands.
TEST_F(PredictTest, NoContextIsTooLong) {
  const SpecModel model({.layers = 2, .hidden = 64, .heads = 2, .kv_heads = 1, .head_dim = 32, .ffn = 64}, path_);
  const Limits limits{.disk_read = 2e9, .link = 1e10, .weight_bytes = 2e10, .prefill_flops = 1e12};
  for (const int context : {1 << 20, 1 << 24, 1 << 30}) {
    Options o;
    o.context = context;
    o.chunk = 64;
    o.device_bytes = 64 * kMiB + 16 * static_cast<uint64_t>(context);
    o.disk_bytes = 2 * model.kv_bytes(context);
    const std::optional<Plan> found = plan(model, o, limits);
    ASSERT_TRUE(found && found->spills_kv()) << context;
    const Alone alone = decode_alone(*found, model.spec.shape, limits);
    const double step = 1 / found->expected.decode_tps;
    EXPECT_GE(step, alone.most() * (1 - kRounding)) << context;
    EXPECT_LE(step, alone.sum() * (1 + kRounding)) << context;
    EXPECT_NEAR(step, alone.most(), 0.02 * step) << context << ": a drive that is never idle";
  }
}

// Up to what the ring's geometry costs: every pass begins at the ring's start, so that the last pieces of one pass may
// stand in the way of the next one's first, more or less so with each piece that becomes resident. It is a few percent,
// seldom.
TEST_F(PredictTest, MoreDeviceMemoryIsNotSlower) {
  std::mt19937_64 random(32);
  int compared = 0, slower = 0;
  double worst = 1;
  for (int i = 0; i < 250; ++i) {
    const SpecModel model(random_shape(random), path_);
    Options options = random_options(random, model);
    const Limits limits = random_limits(random);
    const uint64_t all = model.weight_bytes() + model.kv_bytes(options.context) + 64 * kMiB;
    double best = 0;
    std::optional<Plan> found;
    for (int share = 1; share <= 50; ++share) {
      options.device_bytes = all * share / 50;
      found = plan(model, options, limits);
      if (!found) continue;
      if (best > 0) {
        const double ratio = best / found->expected.decode_tps;
        EXPECT_LT(ratio, 1.12) << fmt::format("case {}: --device-mem {} of {} needed", i, *options.device_bytes, all);
        slower += ratio > 1.01;
        worst = std::max(worst, ratio);
        ++compared;
      }
      best = std::max(best, found->expected.decode_tps);
    }
    ASSERT_TRUE(found && !found->streams_weights() && !found->spills_kv()) << "the last budget holds all";
    EXPECT_GE(found->expected.decode_tps, best * (1 - kRounding)) << "nothing is faster than all on the device";
  }
  std::printf("%d budgets compared with smaller ones: %d are slower by over 1%%, the worst by %.1f%%\n", compared,
              slower, 100 * (worst - 1));
  EXPECT_GT(compared, 5000);
  EXPECT_LT(slower, compared / 200);
}

// A pass of a batch sweeps the head once for every so many rows of logits as the plan holds: bytes and seconds count
// that, so that a plan with little room for logits is not taken for a fast one.
TEST_F(PredictTest, SweepsOfTheHeadAreCounted) {
  std::mt19937_64 random(33);
  int streamed = 0;
  for (int i = 0; i < 400; ++i) {
    const SpecModel model(random_shape(random), path_);
    Options options = random_options(random, model);
    options.chunk = std::max(options.chunk, 16);
    options.batch = options.sequences = options.logit_rows = 16;
    const Limits limits = random_limits(random);
    const std::optional<Plan> found = plan(model, options, limits);
    if (!found) continue;
    SCOPED_TRACE(fmt::format("case {}: --device-mem {} -c {}", i, *options.device_bytes, options.context));
    Plan once = *found, each = *found;
    once.logit_rows = 16;
    each.logit_rows = 1;
    double head_disk = 0, head_s = 0;
    for (size_t unit = 0; unit < found->units.size(); ++unit) {
      if (found->units[unit].stage != Stage::head) continue;
      head_s += static_cast<double>(found->units[unit].weight_bytes) / limits.weight_bytes;
      if (found->unit_tiers[unit] == Tier::disk) head_disk += static_cast<double>(found->units[unit].bytes);
    }
    const Expected a = predict(once, model.spec, limits), b = predict(each, model.spec, limits);
    EXPECT_EQ(static_cast<double>(b.disk_bytes) - static_cast<double>(a.disk_bytes), 15 * head_disk);
    EXPECT_GE(1 / b.decode_tps, 1 / a.decode_tps * 0.9) << "up to what the ring's geometry costs";
    EXPECT_NEAR(b.compute_s - a.compute_s, 15 * head_s, kRounding * b.compute_s);
    streamed += head_disk > 0 ? 1 : 0;
  }
  EXPECT_GE(streamed, 20);
}

// As large a vocabulary as models have, on a budget under which sizes are at their least: the head is not read once for
// each sequence.
TEST_F(PredictTest, LittleRoomIsNoReasonForASweepOfTheHeadEach) {
  const SpecModel model({.layers = 12,
                         .hidden = 576,
                         .heads = 9,
                         .kv_heads = 3,
                         .head_dim = 64,
                         .ffn = 1536,
                         .vocab = 49152,
                         .type = DType::q4_1},
                        path_);
  const Limits limits{.disk_read = 2e9, .link = 1e10, .weight_bytes = 1e10, .prefill_flops = 1e11};
  Options options;
  options.batch = options.sequences = options.logit_rows = 64;
  options.context = 64 * 64;
  options.chunk = 128;
  int tight = 0, fitting = 0, several = 0;
  double larger = 0;
  for (uint64_t mib = 160; mib > 16; mib -= 2) {
    options.device_bytes = mib * kMiB;
    const std::optional<Plan> found = plan(model, options, limits);
    if (!found) break;
    ++fitting;
    tight += found->unit_bytes == 512 * 1024 && mib > 33 ? 1 : 0;
    if (larger > 0 && found->logit_rows > 1) {
      EXPECT_GT(found->expected.decode_tps, larger / 2) << mib << " MiB";
    }
    several += found->logit_rows > 1 ? 1 : 0;
    larger = found->expected.decode_tps;
  }
  EXPECT_GT(fitting, 10);
  EXPECT_GE(tight, 1);
  EXPECT_GE(several, fitting - 2) << "but where there is room for one row alone";
}

// Of passes that mix decode steps and prompts: a decode pass is what decode_tps says, more rows take longer, and one
// pass less than two.
TEST_F(PredictTest, MixedPassesLieBetweenTheirParts) {
  std::mt19937_64 random(34);
  int compared = 0, streamed = 0;
  for (int i = 0; i < 300; ++i) {
    const SpecModel model(random_shape(random), path_);
    Options options = random_options(random, model);
    options.batch = options.sequences = options.logit_rows = 8;
    const Limits limits = random_limits(random);
    const std::optional<Plan> found = plan(model, options, limits);
    if (!found) continue;
    SCOPED_TRACE(fmt::format("case {}: --device-mem {} -c {}", i, *options.device_bytes, options.context));
    const auto seconds = [&](const PassLoad& load) { return predict_pass(*found, model.spec, limits, load); };
    const PassLoad decode{.decoded = 8, .logit_rows = 8, .positions = found->context};
    EXPECT_DOUBLE_EQ(seconds(decode), 8 / found->expected.decode_tps);
    const PassLoad few{.decoded = 2, .logit_rows = 2, .positions = found->context / 4};
    EXPECT_LE(seconds(few), seconds(decode) * (1 + kRounding));
    const int rows = std::min(found->chunk, 64);
    const PassLoad prompt{.prefilled = rows, .logit_rows = 1};
    PassLoad mixed = decode;
    mixed.prefilled = rows;
    EXPECT_GE(seconds(mixed), seconds(decode) * (1 - kRounding));
    EXPECT_LE(seconds(mixed), (seconds(decode) + seconds(prompt)) * 1.001);
    EXPECT_EQ(predict_pass(*found, model.spec, {}, mixed), 0);
    streamed += found->streams_weights() ? 1 : 0;
    ++compared;
  }
  EXPECT_GT(compared, 100);
  EXPECT_GT(streamed, 20);
}

}  // namespace
}  // namespace spillway
