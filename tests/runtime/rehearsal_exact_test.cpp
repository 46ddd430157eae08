// What divergence does not see: a foretold query that is turned to a neighbour's position, or made with another layer's
// norm. In a model whose layers add nothing, every layer's input is the same: then the foretold query is the true one,
// and with whole keys a rehearsal must choose what the oracle chooses.
#include <gtest/gtest.h>

#include <fstream>

#include "runtime/calibrate.h"
#include "runtime/fingerprint.h"
#include "runtime/quality.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kTokens = 576, kSteps = 32, kRead = 96;

class RehearsalExact : public ::testing::Test {
 protected:
  RehearsalExact() {
    const std::string path = write_tiny_model({.layers = 5, .name = "still"}, ::testing::TempDir());
    model_ = open_for_test(path);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (const LayerTensors& layer : model_.spec.layers) {
      for (const TensorInfo* tensor : {&layer.attn_out, &layer.down}) {
        file.seekp(static_cast<std::streamoff>(tensor->extent.offset));
        const std::string zeros(tensor->extent.bytes, '\0');
        file.write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
      }
    }
    file.close();
    options_.device = DeviceChoice::cpu;
    options_.threads = 2;
    options_.device_bytes = 512 << 20;
    device_ = choose_device(options_, model_.spec.shape);
  }

  // Of the attention, where every step reads everything.
  double missed(const KvSelection& wishes) {
    model_.skew.reset();
    if (wishes.foretells()) {
      const CalibrationText text{"ids", "", random_ids(3, 700, model_.spec.shape.vocab)};
      const std::string path = ::testing::TempDir() + "still-skew.gguf";
      const CalibrateOptions how{.context = 640, .ahead = wishes.ahead, .guess = QueryGuess::gain};
      calibrate({model_, options_, device_, {}, text}, how, path, {});
      model_.skew = std::make_unique<Skew>(open_skew(path, model_.spec, fingerprint(model_.checkpoint)));
    }
    Options options = options_;
    options.context = quality_context(kTokens, kSteps);
    options.sequences = 2;
    options.selection = wishes;
    options.selection.tokens = kRead;
    options.selection.only_check = true;
    Engine engine(model_, options, plan_session(model_, options, device_, {}), *device_.device, {});
    engine.set_only_check(false);
    const std::vector<int32_t> tokens = random_ids(4, kTokens, model_.spec.shape.vocab);
    ReferenceRows rows;
    return measure_window(engine, {.tokens = tokens, .steps = kSteps, .checks = true}, rows, nullptr, {}).missed.mean();
  }

  Model model_;
  Options options_;
  ChosenDevice device_;
};

TEST_F(RehearsalExact, ChoosesWhatTheOracleDoesWhereNothingChanges) {
  const double oracle = missed({.selector = KvSelector::oracle});
  EXPECT_GT(oracle, 0.05);
  const int d = model_.spec.shape.head_dim;
  for (const int ahead : {1, 2}) {
    const double whole = missed({.selector = KvSelector::rehearsal, .rank = d, .key_bits = 16, .ahead = ahead});
    EXPECT_NEAR(whole, oracle, 2e-4 * oracle) << ahead;
  }
  // So much is lost by a smaller mistake than those: few directions, which fit random keys badly.
  EXPECT_GT(missed({.selector = KvSelector::rehearsal, .rank = 8, .key_bits = 4}), 1.01 * oracle);
}

}  // namespace
}  // namespace spillway
