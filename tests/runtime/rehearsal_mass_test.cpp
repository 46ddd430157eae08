// What the rehearsal of the decode path misses of the attention is what plain loops over the same keys and inputs say
// (tests/support/rehearsed_mass): so a basis of another layer or head, a query that is not turned or turned to another
// position, made of an older input, or without its bias, and heads dealt out to the wrong group show here, though each
// of them leaves an answer that looks sound.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <utility>

#include "runtime/calibrate.h"
#include "runtime/fingerprint.h"
#include "runtime/quality.h"
#include "tests/support/placed_run.h"
#include "tests/support/rehearsed_mass.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kTokens = 704, kSteps = 64;
constexpr double kShare = 0.25;

class RehearsalMass : public ::testing::Test {
 protected:
  RehearsalMass()
      : model_(open_for_test(write_tiny_model(
            {.layers = 6, .hidden = 96, .heads = 6, .kv_heads = 2, .head_dim = 32, .seed = 5, .name = "rehearsed"},
            ::testing::TempDir()))) {
    // Queries have biases, numbers of the embedding: the tiny models' family has none.
    for (LayerTensors& layer : model_.spec.layers) {
      const uint64_t bytes = 4ull * model_.spec.shape.q_width();
      layer.q_bias = model_.spec.token_embedding;
      layer.q_bias.rows = 1;
      layer.q_bias.cols = model_.spec.shape.q_width();
      layer.q_bias.extent.offset += bytes * static_cast<uint64_t>(layer.from_start);
      layer.q_bias.extent.bytes = bytes;
    }
    options_.device = DeviceChoice::cpu;
    options_.threads = 2;
    options_.device_bytes = 512 << 20;
    device_ = choose_device(options_, model_.spec.shape);
    tokens_ = random_ids(4, kTokens, model_.spec.shape.vocab);
    const CalibrationText text{"ids", "", random_ids(3, 1500, model_.spec.shape.vocab)};
    const std::string path = ::testing::TempDir() + "rehearsed-skew.gguf";
    calibrate({model_, options_, device_, {}, text}, {.context = kTokens}, path, {});
    model_.skew = std::make_unique<Skew>(open_skew(path, model_.spec, fingerprint(model_.checkpoint)));
    Options all = options_;
    all.context = kTokens;
    Engine engine(model_, all, plan_session(model_, all, device_, {}), *device_.device, {});
    trace_ = std::make_unique<AttentionTrace>(model_, kTokens, kSteps);
    engine.set_observer(trace_.get());
    engine.prefill(engine.open_sequence(), tokens_, 0, false, {});
  }

  double missed(KvSelection wishes) {
    Options options = options_;
    options.context = quality_context(kTokens, kSteps);
    options.sequences = 2;
    wishes.share = kShare;
    wishes.granule_tokens = 1;
    wishes.only_check = true;
    options.selection = wishes;
    Engine engine(model_, options, plan_session(model_, options, device_, {}), *device_.device, {});
    engine.set_only_check(false);
    ReferenceRows rows;
    return measure_window(engine, {.tokens = tokens_, .steps = kSteps, .checks = true}, rows, nullptr, {})
        .missed.mean();
  }
  double expected(MassChoice choice) const {
    choice.share = kShare;
    return 1 - kept_mass(*trace_, *model_.skew, choice);
  }

  Model model_;
  Options options_;
  ChosenDevice device_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<AttentionTrace> trace_;
};

TEST_F(RehearsalMass, IsWhatPlainLoopsSay) {
  struct Case {
    const char* name;
    KvSelection selection;
    MassChoice choice;
  };
  const int d = model_.spec.shape.head_dim;
  const Case cases[] = {
      {"oracle", {.selector = KvSelector::oracle}, {.truth = true}},
      {"rehearsal", {.selector = KvSelector::rehearsal}, {.rank = d / 2, .bits = 4}},
      {"rehearsal, few numbers", {.selector = KvSelector::rehearsal, .rank = 8, .key_bits = 8}, {.rank = 8, .bits = 8}},
      {"infinigen",
       {.selector = KvSelector::infinigen},
       {.rank = d / 4, .query = Foretold::by_own_matrix, .principal = true}}};
  for (const Case& one : cases) {
    const double here = missed(one.selection), there = expected(one.choice);
    std::printf("%s: %.5f, %.5f\n", one.name, here, there);
    // A score that two roundings order differently changes little: near the cut both weigh the same.
    EXPECT_NEAR(here, there, 2e-3 * there) << one.name;
  }
}

// So much do the mistakes change it.
TEST_F(RehearsalMass, MistakesAreLargerThanTheDifference) {
  const int d = model_.spec.shape.head_dim;
  const MassChoice right{.rank = d / 2, .bits = 4};
  const double sound = expected(right);
  const auto with = [&](auto change) {
    MassChoice wrong = right;
    change(wrong);
    return expected(wrong);
  };
  const std::pair<const char*, double> mistakes[] = {
      {"another layer's basis", with([](MassChoice& c) { c.basis_shift = 1; })},
      {"another KV head's basis", with([](MassChoice& c) { c.head_shift = 1; })},
      {"an older input", with([](MassChoice& c) { c.input_lag = 1; })},
      {"no rotation", with([](MassChoice& c) { c.turned = false; })},
      {"the next position", with([](MassChoice& c) { c.turned_to = 1; })},
      {"no bias", with([](MassChoice& c) { c.biased = false; })},
      {"heads interleaved", with([](MassChoice& c) { c.interleaved = true; })},
      {"sums of raw scores", with([](MassChoice& c) { c.raw_scores = true; })}};
  for (const auto& [what, mass] : mistakes) {
    std::printf("%.5f, %s: %.5f\n", sound, what, mass);
    EXPECT_GT(std::abs(mass - sound), 3e-2 * sound) << what;
  }
}

}  // namespace
}  // namespace spillway
