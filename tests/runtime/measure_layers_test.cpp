// A model's own layers as they are measured: kept for models of the same shape, not measured where there is no room,
// and what was measured is what a plan expects.
#include "runtime/measure_layers.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/planner.h"
#include "runtime/predict.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

class MeasureLayersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("measure_layers_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    device_ = make_cpu_device({.threads = 2});
    machine_.device = device_->name();
    options_.chunk = 32;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Model model(TinyModelOptions shape) {
    shape.name = "measured" + std::to_string(models_++);
    return open_for_test(write_tiny_model(shape, folder_.string()));
  }
  std::optional<LayerTimes> times(const Model& model, uint64_t most_bytes = UINT64_MAX) {
    said_.clear();
    return layer_times(model, options_, *device_, machine_,
                       {.most_bytes = most_bytes,
                        .cache_file = (folder_ / "machine.json").string(),
                        .progress = [&](std::string_view line) { said_.emplace_back(line); }});
  }

  // Of a machine on which the model's layers took so long.
  static Limits limits_of(const Model& model, const LayerTimes& measured) {
    Limits limits{
        .disk_read = 1e9, .link = 1e10, .weight_bytes = 1e10, .prefill_flops = 1e11, .kv_bytes = 1e30, .call_s = 2e-6};
    calibrate(limits, model.spec, model.checkpoint, measured);
    return limits;
  }
  Plan plan_of(const Model& model, const Limits& limits) const {
    return make_plan({.options = options_,
                      .spec = model.spec,
                      .checkpoint = model.checkpoint,
                      .device = *device_,
                      .ops = device_->ops(),
                      .limits = limits});
  }

  std::filesystem::path folder_;
  std::unique_ptr<Device> device_;
  Machine machine_;
  Options options_;
  std::vector<std::string> said_;
  int models_ = 0;
};

// Learned positions end where the model's context does.
TEST_F(MeasureLayersTest, StaysWithinThePositionsOfAModel) {
  for (const int context : {1, 20}) {
    const Model opt = model({.layers = 2, .context = context, .family = "opt"});
    const std::optional<LayerTimes> measured = times(opt);
    ASSERT_TRUE(measured) << context;
    EXPECT_EQ(measured->chunk, context);
  }
}

TEST_F(MeasureLayersTest, MeasuresAndKeepsForModelsOfTheSameShape) {
  const Model first = model({.layers = 3, .type = DType::q8_0});
  const std::optional<LayerTimes> found = times(first);
  ASSERT_TRUE(found);
  EXPECT_FALSE(said_.empty());
  EXPECT_EQ(found->layers, 3);
  EXPECT_EQ(found->chunk, 32);
  EXPECT_GT(found->decode_s, 0);
  EXPECT_GT(found->chunk_s, 0);
  for (const int rows : {2, 4, 8, 16}) EXPECT_GT(found->rows_s.at(rows), 0) << rows;
  EXPECT_FALSE(found->rows_s.contains(64)) << "a chunk has fewer";
  // Beside others' work it is measured again, twice at most.
  for (int i = 0; i < 2 && !said_.empty(); ++i) ASSERT_TRUE(times(first));
  const Model same = model({.layers = 3, .type = DType::q8_0, .seed = 8});
  ASSERT_TRUE(times(same));
  EXPECT_TRUE(said_.empty());
  const Model wider = model({.layers = 3, .ffn = 320, .type = DType::q8_0});
  ASSERT_TRUE(times(wider));
  EXPECT_FALSE(said_.empty());
  options_.chunk = 64;
  EXPECT_EQ(times(first)->chunk, 64);
}

TEST_F(MeasureLayersTest, FamiliesOfAllKindsAreMeasured) {
  EXPECT_TRUE(times(model({.experts = 4, .type = DType::q8_0})));
  EXPECT_TRUE(times(model({.experts = 4, .expert_ffn = 64, .family = "qwen3moe"})));
  EXPECT_TRUE(times(model({.tied = true, .rope_factors = true})));
}

// The layers read everything then too.
TEST_F(MeasureLayersTest, WhereTokensAreLetGoToo) {
  options_.chunk = 512;
  options_.selection = {.keep = KvRetention::heavy, .tokens = 128, .whole_layers = 0};
  EXPECT_TRUE(times(model({.layers = 2})));
}

TEST_F(MeasureLayersTest, WithoutRoomNothingIsMeasuredAndThatIsSaid) {
  EXPECT_FALSE(times(model({}), 4096));
  ASSERT_FALSE(said_.empty());
  EXPECT_NE(said_.back().find("does not fit"), std::string::npos);
}

TEST_F(MeasureLayersTest, WhatWasMeasuredIsWhatAPlanExpects) {
  const LayerTimes measured{.layers = 4, .chunk = 32, .decode_s = 7e-3, .head_s = 2e-3, .chunk_s = 90e-3};
  for (const int experts : {0, 4}) {
    const Model m = model({.layers = 4, .experts = experts, .type = DType::q8_0});
    const Limits limits = limits_of(m, measured);
    options_.device_bytes = uint64_t{1} << 30;
    options_.context = 64;
    const Plan plan = plan_of(m, limits);
    EXPECT_NEAR(1 / plan.expected.decode_tps, measured.decode_s + measured.head_s, 1e-6);
    // The head of a chunk is computed for its last row alone.
    EXPECT_NEAR(plan.chunk / plan.expected.prefill_tps, measured.chunk_s + measured.head_s, 1e-4);
  }
}

// Between one row and a chunk what was measured is expected too, and where nothing was, what lies between.
TEST_F(MeasureLayersTest, WhatFewRowsTookIsWhatAPassOfThemIsExpectedToTake) {
  const LayerTimes measured{.layers = 4,
                            .chunk = 32,
                            .decode_s = 7e-3,
                            .head_s = 2e-3,
                            .chunk_s = 90e-3,
                            .rows_s = {{4, 21e-3}, {8, 50e-3}},
                            .head_rows_s = {{8, 11e-3}}};
  for (const int experts : {0, 4}) {
    const Model m = model({.layers = 4, .experts = experts, .type = DType::q8_0});
    const Limits limits = limits_of(m, measured);
    options_.device_bytes = uint64_t{1} << 30;
    options_.batch = options_.sequences = options_.logit_rows = 8;
    options_.positions = 64;
    options_.context = 8 * 64;
    const Plan plan = plan_of(m, limits);
    const auto seconds = [&](const PassLoad& load) { return predict_pass(plan, m.spec, limits, load); };
    EXPECT_NEAR(seconds({.decoded = 1, .positions = 1}), 7e-3, 1e-6);
    EXPECT_NEAR(seconds({.decoded = 4, .positions = 4}), 21e-3, 1e-6);
    EXPECT_NEAR(seconds({.decoded = 8, .positions = 8}), 50e-3, 1e-6);
    EXPECT_NEAR(seconds({.decoded = 8, .logit_rows = 8, .positions = 8}), 61e-3, 1e-6);
    EXPECT_NEAR(seconds({.prefilled = 32}), 90e-3, 1e-6);
    EXPECT_NEAR(seconds({.decoded = 4, .prefilled = 28, .positions = 4}), 90e-3, 1e-6) << "rows are rows";
    const double six = seconds({.decoded = 6, .positions = 6});
    EXPECT_GT(six, 21e-3);
    EXPECT_LT(six, 50e-3);
  }
}

TEST_F(MeasureLayersTest, TimesAreKeptAsTheyAre) {
  const LayerTimes times{.layers = 4,
                         .chunk = 32,
                         .decode_s = 7e-3,
                         .head_s = 2e-3,
                         .chunk_s = 90e-3,
                         .rows_s = {{4, 21e-3}, {16, 50e-3}},
                         .head_rows_s = {{16, 11e-3}}};
  const nlohmann::json json = to_json(times);
  const std::optional<LayerTimes> kept = layer_times_from(json);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->rows_s, times.rows_s);
  EXPECT_EQ(kept->head_rows_s, times.head_rows_s);
  for (const char* rows : {"", "1", "-4", "4x", "99999999999999"}) {
    nlohmann::json bad = json;
    bad["rows_s"] = {{rows, 1.0}};
    EXPECT_FALSE(layer_times_from(bad)) << rows;
  }
  nlohmann::json older = json;
  older.erase("rows_s");
  EXPECT_FALSE(layer_times_from(older)) << "it is measured again";
  const LayerTimes better = better_of(times, {.layers = 4,
                                              .chunk = 32,
                                              .decode_s = 8e-3,
                                              .head_s = 1e-3,
                                              .chunk_s = 91e-3,
                                              .rows_s = {{4, 20e-3}, {16, 51e-3}},
                                              .head_rows_s = {{16, 12e-3}}});
  EXPECT_EQ(better.rows_s, (std::map<int, double>{{4, 20e-3}, {16, 50e-3}}));
}

TEST(OtherLoadTest, SeesWhatOthersDo) {
  const OtherLoad load;
  const pid_t child = fork();
  if (child == 0) {
    for (;;) asm volatile("");
  }
  usleep(500'000);
  const double share = load.share();
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_GT(share, 0);
  EXPECT_LE(share, 1);
}

}  // namespace
}  // namespace spillway
