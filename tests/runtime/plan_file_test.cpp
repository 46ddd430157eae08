// Plans as files: what is read is what was written, to the byte of every tier; another model, machine or budget is
// refused by name; and whatever a file says, reading it ends in a plan that keeps every rule, or in an error.
#include "runtime/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "tests/support/spec_model.h"

namespace spillway {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
constexpr uint64_t kMiB = 1 << 20;

void expect_same(const Plan& a, const Plan& b) {
  ASSERT_EQ(a.before.size(), b.before.size());
  for (size_t i = 0; i < a.before.size(); ++i) expect_same(a.before[i], b.before[i]);
  for (int t = 0; t < kTiers; ++t) {
    SCOPED_TRACE(kTierNames[t]);
    EXPECT_EQ(a.tiers[t].weights, b.tiers[t].weights);
    EXPECT_EQ(a.tiers[t].kv, b.tiers[t].kv);
    EXPECT_EQ(a.tiers[t].workspace, b.tiers[t].workspace);
    EXPECT_EQ(a.tiers[t].rings, b.tiers[t].rings);
    EXPECT_EQ(a.tiers[t].process, b.tiers[t].process);
    EXPECT_EQ(a.tiers[t].selection, b.tiers[t].selection);
  }
  EXPECT_EQ(a.first_layer, b.first_layer);
  EXPECT_EQ(a.last_layer, b.last_layer);
  EXPECT_EQ(a.head, b.head);
  EXPECT_EQ(a.context, b.context);
  EXPECT_EQ(a.chunk, b.chunk);
  EXPECT_EQ(a.logit_rows, b.logit_rows);
  EXPECT_EQ(a.lookahead, b.lookahead);
  EXPECT_EQ(a.emulated_link, b.emulated_link);
  EXPECT_EQ(a.staged, b.staged);
  EXPECT_EQ(a.unit_tiers, b.unit_tiers);
  ASSERT_EQ(a.units.size(), b.units.size());
  for (size_t i = 0; i < a.units.size(); ++i) EXPECT_EQ(a.units[i].bytes, b.units[i].bytes);
  EXPECT_EQ(a.weight_ring_bytes, b.weight_ring_bytes);
  EXPECT_EQ(a.expert_tier, b.expert_tier);
  EXPECT_EQ(a.expert_slot_bytes, b.expert_slot_bytes);
  EXPECT_EQ(a.expert_device_slots, b.expert_device_slots);
  EXPECT_EQ(a.expert_host_slots, b.expert_host_slots);
  EXPECT_EQ(a.kv_layout, b.kv_layout);
  EXPECT_EQ(a.kv_device_slots, b.kv_device_slots);
  EXPECT_EQ(a.kv_host_slots, b.kv_host_slots);
  EXPECT_EQ(a.kv_disk_slots, b.kv_disk_slots);
  EXPECT_EQ(a.kv_device_rows_per_layer, b.kv_device_rows_per_layer);
  EXPECT_EQ(a.kv_choosing_rows_per_layer, b.kv_choosing_rows_per_layer);
  EXPECT_EQ(a.kv_ring_bytes, b.kv_ring_bytes);
  EXPECT_EQ(a.staging.bytes(), b.staging.bytes());
}

class PlanFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("plan_file_test_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    near_ = make_cpu_device({.threads = 2});
    far_ = std::make_unique<FarDevice>(*near_);
    host_.emplace(HostUnit{*near_, near_->ops(), {}});
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  struct Case {
    SpecModel model;
    Options options;
    bool far = false;
    uint64_t process_bytes = 0;
  };

  PlanInput input(const Case& c, const Options& options, uint64_t process) const {
    return {.options = options,
            .spec = c.model.spec,
            .checkpoint = c.model.checkpoint,
            .device = c.far ? static_cast<const Device&>(*far_) : *near_,
            .ops = near_->ops(),
            .limits = {},
            .process_bytes = process,
            .host = c.far ? &*host_ : nullptr};
  }
  PlanInput input(const Case& c) const { return input(c, c.options, c.process_bytes); }
  const Device& device(const Case& c) const { return c.far ? static_cast<const Device&>(*far_) : *near_; }

  std::string model_file() const { return (folder_ / "model.holes").string(); }
  std::string file() const { return (folder_ / "plan.json").string(); }
  std::string text() const {
    std::stringstream all;
    all << std::ifstream(file()).rdbuf();
    return all.str();
  }
  void write(const std::string& text) const { std::ofstream(file(), std::ios::binary) << text; }

  std::optional<Plan> planned(const Case& c) const {
    try {
      return make_plan(input(c));
    } catch (const Error&) {
      return std::nullopt;
    }
  }
  // As a run takes it, in a process of so many bytes.
  Plan taken(const Case& c, uint64_t process) const {
    const PlanFile read = PlanFile::read(file());
    read.check(c.model.checkpoint, device(c));
    Options options;
    read.decide(options);
    return read.plan(input(c, options, process));
  }
  Plan taken(const Case& c) const { return taken(c, c.process_bytes); }

  Case random_case(std::mt19937_64& random) const {
    const auto upto = [&](uint64_t n) { return random() % n; };
    TinyModelOptions shape = random_shape(random);
    if (upto(4) == 0) shape.experts = 4 + static_cast<int>(upto(8));
    Case c{.model = SpecModel(shape, model_file()), .options = {}, .far = upto(3) == 0};
    Options& o = c.options;
    o.context = 1 + static_cast<int>(upto(8000));
    o.chunk = 1 + static_cast<int>(upto(512));
    o.logit_rows = upto(3) == 0 ? 64 : 1;
    o.lookahead = static_cast<int>(upto(4));
    if (upto(4) == 0) o.sequences = 1 + static_cast<int>(upto(6));
    if (upto(3) == 0) o.kv_codec = kAllKvCodecs[upto(std::size(kAllKvCodecs))];
    if (upto(3) == 0 && o.kv_codec != KvCodec::f32) {
      // Without a skew partial keys are parts of keys, and choosing needs no calibration.
      constexpr KvSelector kSome[] = {KvSelector::rehearsal, KvSelector::oracle, KvSelector::bounds};
      o.selection.selector = kSome[upto(std::size(kSome))];
      o.selection.share = 0.05 + 0.01 * static_cast<double>(upto(20));
      o.selection.whole_layers = static_cast<int>(upto(3));
      o.selection.hot_slots = 1 + static_cast<double>(upto(3));
    }
    c.process_bytes = upto(8 * kMiB);
    const uint64_t all = c.model.weight_bytes() + c.model.kv_bytes(o.context) + 32 * kMiB;
    o.device_bytes = upto(all + all / 4);
    if (c.far || upto(2) == 0) o.host_bytes = upto(2 * all);
    if (upto(2) == 0) o.disk_bytes = upto(c.model.kv_bytes(o.context) + kMiB);
    if (!c.far && o.host_bytes && upto(2) == 0) o.link_bytes_per_second = 1e9;
    if (c.far && upto(2) == 0) o.device_layers = static_cast<int>(upto(c.model.spec.shape.layers + 1));
    return c;
  }

  // One with everything in it: two units, weights and KV in all tiers.
  Case divided_case() const {
    TinyModelOptions shape;
    shape.layers = 6;
    shape.hidden = 512;
    shape.ffn = 2048;
    shape.vocab = 8192;
    Case c{.model = SpecModel(shape, model_file()), .options = {}, .far = true, .process_bytes = kMiB};
    c.options.context = 32768;
    c.options.chunk = 64;
    c.options.device_bytes = c.model.weight_bytes() / 3 + 8 * kMiB;
    c.options.host_bytes = c.model.weight_bytes() / 3 + 64 * kMiB;
    c.options.disk_bytes = c.model.kv_bytes(32768);
    c.options.device_layers = 4;
    return c;
  }

  std::filesystem::path folder_;
  std::unique_ptr<Device> near_, far_;
  std::optional<HostUnit> host_;
};

TEST_F(PlanFileTest, WhatIsReadIsWhatWasWritten) {
  std::mt19937_64 random(3);
  std::map<std::string, int> counts;
  for (int i = 0; i < 200; ++i) {
    const Case c = random_case(random);
    SCOPED_TRACE(i);
    const std::optional<Plan> plan = planned(c);
    if (!plan) continue;
    PlanFile::of(*plan, input(c)).write(file(), plan->expected);
    const Plan again = taken(c);
    expect_same(*plan, again);
    // The process is smaller: nothing moves.
    expect_same(*plan, taken(c, 0));
    counts["planned"] += 1;
    counts["streams"] += plan->streams_weights();
    counts["experts"] += plan->moves_experts();
    counts["KV outside"] += plan->spills_kv();
    counts["packed"] += plan->kv_layout.packed_layers() > 0;
    counts["divided"] += !plan->before.empty();
    counts["emulated"] += plan->emulated_link;
    counts["chooses"] += plan->selection.on();
    counts["chooses among KV outside"] += plan->selection.on() && plan->spills_kv();
    if (HasFailure()) break;
  }
  for (const char* what : {"planned", "streams", "experts", "KV outside", "packed", "divided", "emulated", "chooses",
                           "chooses among KV outside"}) {
    EXPECT_GE(counts[what], 5) << what;
  }
}

TEST_F(PlanFileTest, RefusesByName) {
  const Case c = divided_case();
  const std::optional<Plan> plan = planned(c);
  ASSERT_TRUE(plan);
  PlanFile::of(*plan, input(c)).write(file(), plan->expected);
  const PlanFile read = PlanFile::read(file());
  const auto message = [](const auto& body) -> std::string {
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::fit);
      return error.what();
    }
    return "not refused";
  };

  TinyModelOptions other;
  other.layers = 6;
  const SpecModel model(other, (folder_ / "other.holes").string());
  EXPECT_THAT(message([&] { read.check(model.checkpoint, *far_); }), HasSubstr("made for the model"));
  EXPECT_THAT(message([&] { read.check(c.model.checkpoint, *near_); }), HasSubstr("made for far device"));

  Options options;
  read.decide(options);
  options.device_bytes = plan->tier(Tier::device).total() - 1;
  EXPECT_THAT(message([&] { read.plan(input(c, options, c.process_bytes)); }), HasSubstr("--device-mem"));
  read.decide(options);
  options.host_bytes = plan->tier(Tier::host).total() - 1;
  EXPECT_THAT(message([&] { read.plan(input(c, options, c.process_bytes)); }), HasSubstr("--host-mem"));
  read.decide(options);
  options.disk_bytes = plan->tier(Tier::disk).kv - 1;
  EXPECT_THAT(message([&] { read.plan(input(c, options, c.process_bytes)); }), HasSubstr("--disk-mem"));
  // A process that has outgrown what the plan left over.
  read.decide(options);
  EXPECT_THAT(message([&] { read.plan(input(c, options, *c.options.host_bytes)); }), HasSubstr("the process has"));
  // Nobody to compute the first layers.
  PlanInput alone = input(c, options, c.process_bytes);
  alone.host = nullptr;
  EXPECT_THAT(message([&] { read.plan(alone); }), HasSubstr("no CPU beside"));
}

TEST_F(PlanFileTest, RefusesWhatIsNoPlan) {
  const auto message = [&](const std::string& bytes) -> std::string {
    write(bytes);
    try {
      PlanFile::read(file());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("plan.json"));
      return error.what();
    }
    return "not refused";
  };
  for (const char* bytes : {"{", "[]", "7", "{\"format\": 1}", "\xff\xfe"}) {
    EXPECT_THAT(message(bytes), HasSubstr("not a plan")) << bytes;
  }
  EXPECT_THAT(message(""), HasSubstr("empty"));
  EXPECT_THAT(message("{\"spillway_plan\": 1}"), HasSubstr("format 2"));
  EXPECT_THAT(message("{\"spillway_plan\": 2}"), HasSubstr("model is missing"));
  EXPECT_THAT(message(std::string((4 << 20) + 1, ' ')), HasSubstr("longer than any plan"));
  EXPECT_THAT(message(std::string(1 << 20, '[')), HasSubstr("not a plan"));
  std::filesystem::remove(file());
  EXPECT_THROW(PlanFile::read(file()), Error);
  EXPECT_THROW(PlanFile::read(folder_.string()), Error);
}

// Every rule that the engine relies on.
void expect_sound(const Plan& plan, const ModelSpec& spec) {
  ASSERT_EQ(plan.unit_tiers.size(), plan.units.size());
  uint64_t largest_streamed = 0;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    if (plan.unit_tiers[i] != Tier::device) largest_streamed = std::max(largest_streamed, plan.units[i].bytes);
  }
  EXPECT_GE(plan.weight_ring_bytes, largest_streamed);
  EXPECT_GE(plan.chunk, 1);
  EXPECT_LE(plan.chunk, plan.context);
  EXPECT_GE(plan.logit_rows, 1);
  EXPECT_LE(plan.logit_rows, plan.chunk);
  EXPECT_EQ(plan.context % kPageTokens, 0);
  EXPECT_GE(plan.kv_device_rows_per_layer, 1);
  EXPECT_TRUE(!plan.spills_kv() || plan.kv_ring_bytes >= plan.kv_layout.row_bytes());
  EXPECT_LE(plan.last_layer, spec.shape.layers);
  for (const Plan& before : plan.before) expect_sound(before, spec);
}

class HostilePlan : public PlanFileTest {
 protected:
  void SetUp() override {
    PlanFileTest::SetUp();
    case_.emplace(divided_case());
    const std::optional<Plan> plan = planned(*case_);
    ASSERT_TRUE(plan);
    ASSERT_TRUE(plan->streams_weights());
    ASSERT_TRUE(plan->spills_kv());
    ASSERT_GT(plan->tier(Tier::disk).kv, 0u);
    ASSERT_FALSE(plan->before.empty());
    PlanFile::of(*plan, input(*case_)).write(file(), plan->expected);
    text_ = text();
  }

  void try_text(const std::string& bytes) {
    try {
      const PlanFile read = PlanFile::parse(bytes, "hostile.json");
      Options options;
      read.decide(options);
      const Plan plan = read.plan(input(*case_, options, case_->process_bytes));
      for (const Tier tier : {Tier::device, Tier::host}) {
        EXPECT_LE(plan.tier(tier).total(), plan.tier(tier).budget);
      }
      EXPECT_LE(plan.tier(Tier::disk).kv, plan.tier(Tier::disk).budget);
      expect_sound(plan, case_->model.spec);
      ++accepted_;
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::usage || error.kind() == ErrorKind::fit) << error.what();
      EXPECT_LT(std::string(error.what()).size(), 2000u);
      ++refused_;
    }
  }

  std::optional<Case> case_;
  std::string text_;
  int accepted_ = 0, refused_ = 0;
};

TEST_F(HostilePlan, AnyValueInAnyPlace) {
  const json original = json::parse(text_);
  const json bad[] = {nullptr,
                      true,
                      -1,
                      0,
                      1,
                      2,
                      63,
                      65,
                      4096,
                      INT32_MAX,
                      UINT32_MAX,
                      INT64_MAX,
                      UINT64_MAX,
                      uint64_t{1} << 50,
                      (uint64_t{1} << 50) - 4096,
                      1.5,
                      1e300,
                      "",
                      "device",
                      "disk",
                      json::array(),
                      json::object(),
                      json::array({json::array({"device", 1})})};
  const json leaves = original.flatten();
  for (const auto& [path, value] : leaves.items()) {
    const json::json_pointer at(path);
    for (const json& replaced : bad) {
      json changed = original;
      changed[at] = replaced;
      SCOPED_TRACE(path + " = " + replaced.dump());
      try_text(changed.dump());
      if (HasFailure()) return;
    }
    json without = original;
    json& parent = without[at.parent_pointer()];
    if (parent.is_object()) {
      parent.erase(at.back());
    } else {
      parent.erase(static_cast<size_t>(std::stoul(at.back())));
    }
    try_text(without.dump());
  }
  EXPECT_GT(refused_, 500);
  EXPECT_GT(accepted_, 10);  // names, expectations, larger budgets
}

TEST_F(HostilePlan, DamagedBytes) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    std::string bytes = text_;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>('0' + random() % 10);
          break;
        default:
          bytes.erase(at, random() % 8);
      }
    }
    SCOPED_TRACE(i);
    try_text(bytes);
  }
  EXPECT_GT(refused_, 300);
}

}  // namespace
}  // namespace spillway
