// A decode step costs the host a handful of calls for a few layers, where all that they read is on the device; where
// weights stream, what stands between their waits is replayed all the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kLayers = 8;
constexpr int kSteps = 5;

struct Counted {
  std::vector<float> logits;
  emulation::HostCalls step;  // of the last step
  std::string report;
};

Counted count(const Model& model, const Options& options, bool graphs, int prompt = 5) {
  begin_on_gpu_under_test(1);
  const auto device = gpu_under_test(graphs);
  Engine engine = engine_for_test(model, options, *device);
  const SequenceId sequence = engine.open_sequence();
  engine.prefill(sequence, random_ids(1, prompt, model.spec.shape.vocab), 0, true, {});
  Counted counted;
  for (int32_t token : random_ids(2, kSteps, model.spec.shape.vocab)) {
    const auto before = emulation::host_calls();
    const auto logits = engine.decode(sequence, token, true);
    counted.logits.insert(counted.logits.end(), logits.begin(), logits.end());
    const auto after = emulation::host_calls();
    counted.step = {after.kernels - before.kernels, after.graphs - before.graphs, after.copies - before.copies};
  }
  counted.report = device->ops().layers_report();
  return counted;
}

class CudaGraphs : public testing::Test {
 protected:
  void SetUp() override {
    if (testing_a_gpu()) GTEST_SKIP() << "calls are counted by the emulation";
    options_.device_bytes = 1ull << 30;
    options_.host_bytes = 1ull << 30;
    options_.context = 64;
  }

  const Model model_ = open_for_test(write_tiny_model({.layers = kLayers,
                                                       .hidden = 64,
                                                       .heads = 2,
                                                       .kv_heads = 1,
                                                       .head_dim = 32,
                                                       .ffn = 96,
                                                       .vocab = 320,
                                                       .context = 1024,
                                                       .type = DType::q8_0,
                                                       .seed = 5,
                                                       .name = "cuda_graphs"},
                                                      ::testing::TempDir()));
  Options options_;
};

TEST_F(CudaGraphs, AResidentStepIsAHandfulOfCalls) {
  const Counted plain = count(model_, options_, false);
  const Counted replayed = count(model_, options_, true);
  EXPECT_EQ(plain.logits, replayed.logits);
  EXPECT_EQ(plain.step.graphs, 0u);
  // Ten operations a layer, and two of three lists of descriptors that differ from those of the step before: what
  // products read, the operation before has quantised. And the inputs and the head.
  EXPECT_EQ(plain.step.kernels, 12u * kLayers + 6u);
  EXPECT_EQ(replayed.step.graphs, kLayers / 4u);
  EXPECT_EQ(replayed.step.copies, 1u) << "the row of logits; the inputs come as parameters of a kernel";
  // The inputs, the head and the copies of a step; for each graph, its descriptors.
  EXPECT_LE(replayed.step.kernels, 6u + replayed.step.graphs);
  EXPECT_THAT(replayed.report, testing::HasSubstr("2 graphs"));
  std::printf("a step of %d layers: %d kernels and %d copies; with graphs %d kernels, %d graphs, %d copies\n", kLayers,
              static_cast<int>(plain.step.kernels), static_cast<int>(plain.step.copies),
              static_cast<int>(replayed.step.kernels), static_cast<int>(replayed.step.graphs),
              static_cast<int>(replayed.step.copies));
}

// A second span: the same calls, of which attention's has more to do. The graph of before would leave it out.
TEST_F(CudaGraphs, CallsWithOtherArgumentsAreAnotherGraph) {
  options_.context = kSpanTokens + kSteps;
  const int prompt = kSpanTokens - kSteps + 1;  // the last step is the first with two spans
  const Counted plain = count(model_, options_, false, prompt);
  const Counted replayed = count(model_, options_, true, prompt);
  EXPECT_EQ(plain.logits, replayed.logits);
  EXPECT_THAT(replayed.report, testing::HasSubstr("2 graphs"));
}

TEST_F(CudaGraphs, WhatStandsBetweenStreamedWeightsIsReplayed) {
  const Counted expected = count(model_, options_, false);
  const Plan whole = plan_for_test(model_, options_, *gpu_under_test());
  options_.device_bytes = whole.tier(Tier::device).total() - whole.tier(Tier::device).weights / 3;
  options_.unit_bytes = 1;
  const Counted plain = count(model_, options_, false);
  const Counted replayed = count(model_, options_, true);
  EXPECT_EQ(expected.logits, replayed.logits);
  EXPECT_EQ(plain.logits, replayed.logits);
  EXPECT_GT(replayed.step.graphs, 0u);
  EXPECT_LT(replayed.step.kernels + replayed.step.graphs, plain.step.kernels);
}

}  // namespace
}  // namespace spillway
