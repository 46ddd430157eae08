// What foretold choices keep of the true attention, on the real model: near the oracle's where all is right, and
// clearly less where something is wrong. Texts: calibrated on the project's prose, looked at on its licence.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "runtime/calibrate.h"
#include "runtime/fingerprint.h"
#include "tests/support/real_model.h"
#include "tests/support/rehearsed_mass.h"

namespace spillway {
namespace {

constexpr int kPositions = 1280, kRows = 32;

class SkewMass : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef SPILLWAY_SANITIZED
    GTEST_SKIP() << "the tiny models take the sanitizers over the same code";
#endif
    if (real_model().empty()) GTEST_SKIP() << kNoRealModel;
    model_ = std::make_unique<Model>(Model::open(real_model()));
    options_.device = DeviceChoice::cpu;
    options_.context = kPositions;
    device_ = choose_device(options_, model_->spec.shape);
    CalibrationText text = own_calibration_text();
    text.text.resize(10000);  // two windows
    const std::string path = ::testing::TempDir() + "mass.gguf";
    calibrate({*model_, options_, device_, {}, text}, {.context = kPositions}, path, {});
    skew_ = std::make_unique<Skew>(open_skew(path, model_->spec, fingerprint(model_->checkpoint)));
    std::ifstream licence(SPILLWAY_TEST_DATA "/../../../LICENSE");
    const std::string words{std::istreambuf_iterator<char>(licence), {}};
    std::vector<int32_t> ids = model_->tokenizer->encode(words, false);
    ASSERT_GE(ids.size(), static_cast<size_t>(kPositions));
    ids.resize(kPositions);
    Engine engine(*model_, options_, plan_session(*model_, options_, device_, {}), *device_.device, {});
    trace_ = std::make_unique<AttentionTrace>(*model_, kPositions, kRows);
    engine.set_observer(trace_.get());
    engine.prefill(engine.open_sequence(), ids, 0, false, {});
  }

  double mass(const MassChoice& choice) const { return kept_mass(*trace_, *skew_, choice); }

  std::unique_ptr<Model> model_;
  Options options_;
  ChosenDevice device_;
  std::unique_ptr<Skew> skew_;
  std::unique_ptr<AttentionTrace> trace_;
};

TEST_F(SkewMass, IsNearTheOraclesAndFallsWithEveryMistake) {
  const int d = model_->spec.shape.head_dim;
  const double oracle = mass({.truth = true}), right = mass({.rank = d / 2, .bits = 4});
  RecordProperty("oracle", std::to_string(oracle));
  RecordProperty("rehearsal", std::to_string(right));
  EXPECT_LT(right, oracle) << "the oracle's choice is the best there is";
  EXPECT_GT(right, 0.97 * oracle) << right << " of " << oracle;
  EXPECT_GT(mass({.rank = d, .bits = 4}), right);
  const double published = mass({.rank = d / 4, .query = Foretold::by_own_matrix, .principal = true});
  EXPECT_LT(oracle - right, 0.6 * (oracle - published)) << published;
  EXPECT_GT(mass({.rank = d / 2, .bits = 4, .query = Foretold::truly}),
            mass({.rank = d / 2, .bits = 4, .query = Foretold::by_own_matrix}));
  struct Fault {
    const char* what;
    MassChoice choice;
  };
  const Fault faults[] = {{"another layer's basis", {.rank = d / 2, .bits = 4, .basis_shift = 1}},
                          {"another head's basis", {.rank = d / 2, .bits = 4, .head_shift = 1}},
                          {"an input of the token before", {.rank = d / 2, .bits = 4, .input_lag = 1}}};
  for (const Fault& fault : faults) {
    EXPECT_GT(oracle - mass(fault.choice), 1.5 * (oracle - right)) << fault.what;
  }
}

}  // namespace
}  // namespace spillway
