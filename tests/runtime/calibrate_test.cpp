// Calibration on tiny models: the same skew wherever the model's bytes lie and however its layers are grouped; its
// directions and its corrected query do what they are for; what is kept is used again.
#include "runtime/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/reference/dequantize.h"
#include "runtime/calibration_sums.h"
#include "runtime/fingerprint.h"
#include "tests/support/placed_run.h"
#include "tests/support/rehearsed_mass.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

class Calibrate : public ::testing::Test {
 protected:
  Calibrate() : folder_(::testing::TempDir() + "calibrate-" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    model_ = std::make_unique<Model>(open_for_test(write_tiny_model(
        {.layers = 5, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .name = "c"}, folder_)));
    text_ = {"ids", "", random_ids(5, 900, model_->spec.shape.vocab)};
    options_.device = DeviceChoice::cpu;
    options_.threads = 2;
    options_.chunk = 96;
    options_.device_bytes = 1 << 30;  // under sanitizers a process has hundreds of MiB
    options_.disk_directory = folder_;
  }
  ~Calibrate() override { std::filesystem::remove_all(folder_); }

  CalibrateParts parts() {
    if (!device_.device) device_ = choose_device(options_, model_->spec.shape);
    return {*model_, options_, device_, limits_, text_};
  }
  Skew make(const CalibrateOptions& options, const std::string& name) {
    report_ = calibrate(parts(), options, folder_ + "/" + name, {});
    return open(name);
  }
  Skew open(const std::string& name) const {
    return open_skew(folder_ + "/" + name, model_->spec, fingerprint(model_->checkpoint));
  }
  AttentionTrace trace(int tokens, int rows) {
    Options options = options_;
    options.context = tokens;
    const CalibrateParts all = parts();
    Engine engine(*model_, options, plan_session(*model_, options, all.device, limits_), *all.device.device, {});
    AttentionTrace trace(*model_, tokens, rows);
    engine.set_observer(&trace);
    engine.prefill(engine.open_sequence(), random_ids(6, tokens, model_->spec.shape.vocab), 0, false, {});
    return trace;
  }

  std::string folder_;
  std::unique_ptr<Model> model_;
  CalibrationText text_;
  Options options_;
  ChosenDevice device_;
  SessionLimits limits_;
  CalibrationReport report_;
};

// Bytes of every tensor by name: where in the file they lie may differ.
std::map<std::string, std::vector<std::byte>> contents(const Skew& skew) {
  std::map<std::string, std::vector<std::byte>> all;
  for (const auto& [name, tensor] : skew.checkpoint.tensors) {
    all[name].resize(tensor.extent.bytes);
    skew.checkpoint.files[0].read(tensor.extent.offset, all[name]);
  }
  return all;
}

TEST_F(Calibrate, IsTheSameWhereverBytesLie) {
  const Skew expected = make({.context = 300}, "a.gguf");
  EXPECT_EQ(report_.tokens, 900);
  EXPECT_EQ(report_.context, 300);
  EXPECT_EQ(report_.prefills, 1);
  EXPECT_EQ(expected.context, 300);
  // The least budget that fits, so that weights stream.
  const Plan all = plan_session(*model_, options_, device_, limits_);
  options_.device_bytes = all.tier(Tier::device).total() - all.tier(Tier::device).weights;
  options_.disk_bytes = 64 << 20;
  std::optional<Skew> spread;
  while (!spread) {
    try {
      spread = make({.context = 300, .memory = 4096}, "b.gguf");
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::fit) << error.what();
      *options_.device_bytes += 64 << 10;
    }
  }
  EXPECT_GT(report_.prefills, 1) << "the layers were to be taken in groups";
  EXPECT_EQ(contents(*spread), contents(expected));
}

// What shorter windows show is in the skew of a longer context too.
TEST_F(Calibrate, ALongerContextAddsAWindow) {
  const Skew usual = make({.context = 250, .window = 250, .most_tokens = 600}, "usual.gguf");
  EXPECT_EQ(report_.tokens, 500) << "two windows; what is left of 600 is too short for a third";
  const Skew both = make({.context = 700, .window = 250, .most_tokens = 600}, "both.gguf");
  EXPECT_EQ(report_.tokens, 500 + 700);
  EXPECT_EQ(both.context, 700);
  const Skew alone = make({.context = 700, .window = 700, .most_tokens = 700}, "alone.gguf");
  EXPECT_EQ(report_.tokens, 700);
  EXPECT_NE(contents(both), contents(alone));
  EXPECT_NE(contents(both), contents(usual));
}

TEST_F(Calibrate, AllDirectionsGiveTheTrueScores) {
  const Skew skew = make({.context = 450}, "a.gguf");
  const AttentionTrace seen = trace(200, 40);
  const ModelShape& shape = model_->spec.shape;
  const int d = shape.head_dim;
  using Rows = Eigen::Map<const RowMatrixXf>;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const HostKeyBasis basis = skew.basis(layer, d);
    for (int head = 0; head < shape.heads; ++head) {
      const int kv = head / shape.group();
      const Rows p_k(basis.keys.data() + static_cast<size_t>(kv) * d * d, d, d);
      const Rows p_q(basis.queries.data() + static_cast<size_t>(kv) * d * d, d, d);
      const Rows mean(basis.mean.data() + static_cast<size_t>(kv) * d, 1, d);
      const RowMatrixXf q = seen.layers[layer].rotated.middleCols(head * d, d);
      const RowMatrixXf k = seen.layers[layer].keys.middleCols(kv * d, d).rowwise() - mean.row(0);
      const RowMatrixXf expected = q * k.transpose();
      const RowMatrixXf got = (q * p_q.transpose()) * (k * p_k.transpose()).transpose();
      EXPECT_LT((got - expected).norm(), 1e-3f * expected.norm()) << layer << ", head " << head;
    }
  }
}

TEST_F(Calibrate, TheCorrectedQueryIsNearerThanTheModelsOwn) {
  for (const int ahead : {1, 2}) {
    const Skew skew = make({.context = 450, .ahead = ahead}, "a.gguf");
    EXPECT_LT(report_.ridge_error, report_.gain_error) << ahead;
    const AttentionTrace seen = trace(200, 100);
    double ridge = 0, own = 0;
    for (int layer = ahead; layer < model_->spec.shape.layers; ++layer) {
      EXPECT_EQ(skew.source(layer), layer - ahead);
      const RowMatrixXf& truth = seen.layers[layer].queries;
      ridge += (foretell(seen, skew, layer, {.query = Foretold::by_ridge}) - truth).squaredNorm();
      own += (foretell(seen, skew, layer, {.query = Foretold::by_own_matrix}) - truth).squaredNorm();
    }
    EXPECT_LT(ridge, 0.9 * own) << ahead;
  }
}

// Layer norms with their biases, queries with biases, no rotation (OPT); norms of heads (Qwen 3); an offset of the
// norms' weights (Gemma 3); one matrix for queries, keys and values (Phi-3).
TEST_F(Calibrate, EveryFamilyIsForetold) {
  for (const char* family : {"opt", "qwen3", "gemma3", "phi3"}) {
    model_ = std::make_unique<Model>(open_for_test(std::string(SPILLWAY_TEST_DATA "/hf/") + family));
    text_.ids = random_ids(7, 900, model_->spec.shape.vocab);
    const Skew skew = make({.context = 300}, std::string(family) + ".gguf");
    const AttentionTrace seen = trace(200, 100);
    for (int layer = 1; layer < model_->spec.shape.layers; ++layer) {
      const RowMatrixXf& truth = seen.layers[layer].queries;
      const RowMatrixXf centred = truth.rowwise() - truth.colwise().mean();
      const float left = (foretell(seen, skew, layer, {}) - truth).norm();
      EXPECT_LT(left, 1.05f * centred.norm()) << family << ", layer " << layer;
    }
    EXPECT_LE(report_.ridge_error, 1.1 * report_.gain_error) << family;
    EXPECT_LT(report_.ridge_error, 1.0) << family;
  }
}

TEST_F(Calibrate, GainTakesTheModelsOwnMatrix) {
  const Skew skew = make({.context = 450, .guess = QueryGuess::gain}, "gain.gguf");
  EXPECT_EQ(skew.guess, QueryGuess::gain);
  for (const SkewLayer& layer : skew.layers) EXPECT_EQ(layer.matrix.cols, 0);
  const auto ridge = contents(make({.context = 450}, "ridge.gguf"));
  for (const auto& [name, bytes] : contents(skew)) EXPECT_EQ(ridge.at(name), bytes) << name;
}

TEST_F(Calibrate, WhatIsKeptIsUsedUntilMorePositionsAreWanted) {
  std::vector<std::string> said;
  const CalibrateHooks hooks{.on_prefill = {}, .said = [&](std::string_view line) { said.emplace_back(line); }};
  const auto load = [&](int context) {
    said.clear();
    return load_or_calibrate(parts(), {.context = context}, folder_, hooks);
  };
  EXPECT_EQ(load(256).context, 256);
  EXPECT_THAT(said, ElementsAre(HasSubstr("no skew"), HasSubstr("calibrating")));
  EXPECT_EQ(load(128).context, 256);
  EXPECT_THAT(said, ElementsAre());
  EXPECT_EQ(load(512).context, 512);
  EXPECT_THAT(said, ElementsAre(HasSubstr("was made for 256 positions"), HasSubstr("calibrating")));
  EXPECT_EQ(load(2000).context, 900) << "as many as the text has tokens for";
  EXPECT_EQ(load(2000).context, 900);
  EXPECT_THAT(said, ElementsAre()) << "no more can be had";
  const std::string path = skew_path(folder_, fingerprint(model_->checkpoint), 1);
  fs::resize_file(path, fs::file_size(path) / 2);
  EXPECT_EQ(load(256).context, 256);
  EXPECT_THAT(said, ElementsAre(HasSubstr("truncated"), HasSubstr("no skew"), HasSubstr("calibrating")));
}

TEST_F(Calibrate, EndsCleanlyWhenInterrupted) {
  struct Stop {};
  const CalibrateHooks hooks{.on_prefill =
                                 [](uint64_t done, uint64_t) {
                                   if (done > 200) throw Stop();
                                 },
                             .said = {}};
  EXPECT_THROW(calibrate(parts(), {.context = 300}, folder_ + "/none/x.gguf", hooks), Stop);
  EXPECT_TRUE(fs::is_empty(folder_ + "/none"));
  EXPECT_THROW(calibrate(parts(), {.context = 901}, folder_ + "/none/x.gguf", {}), Error) << "the text is shorter";
}

}  // namespace
}  // namespace spillway
