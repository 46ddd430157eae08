// The layers of decode steps, replayed as CUDA graphs: the same bits as call by call, few calls of the host, nothing
// baked in that may change, and what stands between waits is never in a graph.
#include "kernels/cuda_replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "tests/support/gpu_under_test.h"

namespace spillway {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr int kHeadDim = 32, kHeads = 4, kKvHeads = 2;
constexpr int kWidth = kHeads * kHeadDim;
constexpr int kLayers = 6;
constexpr int kMostSpans = 5;
constexpr int kLongSpans = 120;

// A decode step made of what matters here: a norm, a product, attention over a growing number of spans, a merge.
class Steps {
 public:
  explicit Steps(bool graphs)
      : device_(nullptr, table_under_test(), 0, graphs), stream_(device_.make_compute_stream("compute")) {
    const ModelShape shape{.layers = kLayers,
                           .hidden = kWidth,
                           .heads = kHeads,
                           .kv_heads = kKvHeads,
                           .head_dim = kHeadDim,
                           .ffn = kWidth,
                           .context = kLongSpans * kSpanTokens};
    const uint64_t scratch = device_.ops().scratch_bytes(shape, 1);
    block_ = device_.reserve(kBytes + scratch);
    host_ = device_.reserve_host(kBytes);
    device_.ops().set_scratch(shape, block_ + kBytes, scratch);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (uint64_t i = 0; i < kBytes / 4; i++) reinterpret_cast<float*>(host_)[i] = normal(random);
    stream_->copy(block_, host_, kBytes);
    stream_->synchronize();
  }
  ~Steps() {
    stream_->synchronize();
    stream_.reset();
    device_.ops().set_scratch({}, nullptr, 0);
    device_.release(block_, 0);
    device_.release_host(host_, kBytes);
  }

  // From now on each step's pages are those of the step before.
  void keep_pages() { pages_move_ = false; }

  View x() { return view(0, 1, kWidth); }
  Ops& ops() { return device_.ops(); }
  Stream& stream() { return *stream_; }
  Device& device() { return device_; }

  // `between`: what happens in the middle of a layer. rows: of pages, in another order each step.
  void step(int spans, const std::function<void(int layer)>& between = {}) {
    for (int layer = 0; layer < kLayers; layer++) {
      ops().begin_layer(*stream_, layer);
      ops().norm(*stream_, x(), view(1, 1, kWidth), 1e-5f, view(2, 1, kWidth));
      const MatmulPart q{view(16 + layer * kWidth, kWidth, kWidth), view(3, 1, kWidth)};
      ops().matmul(*stream_, view(2, 1, kWidth), {&q, 1});
      if (between) between(layer);
      attend(spans);
      ops().add(*stream_, x(), view(4, 1, kWidth));
    }
    ops().end_layers();
  }
  std::vector<float> result() {
    stream_->copy(host_, block_, kWidth * sizeof(float));
    stream_->synchronize();
    const auto* begin = reinterpret_cast<const float*>(host_);
    return {begin, begin + kWidth};
  }

 private:
  static constexpr uint64_t kBytes = 8 << 20;
  static constexpr uint64_t kPages = 4 << 20;

  // Rows of the block, `row` times the width from its begin.
  View view(int64_t row, int64_t rows, int64_t cols) {
    return View::dense(block_ + row * kWidth * sizeof(float), DType::f32, rows, cols);
  }
  void attend(int spans) {
    const AttendShape shape{
        .format = {.dtype = DType::f32, .kv_heads = kKvHeads, .head_dim = kHeadDim}, .heads = kHeads, .scale = 0.2f};
    const View states = View::dense(block_ + (2 << 20), DType::f32, kLongSpans, kHeads * attn_state_floats(kHeadDim));
    std::vector<SpanTask> tasks;
    for (int s = 0; s < spans; s++) {
      SpanTask task{.span = {.first_position = s * kSpanTokens, .tokens = 1 + 7 * s % 60}, .slot = s};
      task.span.rows[0] = block_ + kPages + (s + place_) % kMostSpans * shape.format.row_of_pages_bytes();
      tasks.push_back(task);
    }
    ops().attend(*stream_, view(3, 1, kWidth), shape, tasks, states);
    const MergeTask merge{0, 0, spans};
    ops().merge(*stream_, states, shape, {&merge, 1}, view(4, 1, kWidth));
    if (pages_move_) place_++;
  }

  CudaDevice device_;
  std::unique_ptr<Stream> stream_;
  std::byte* block_ = nullptr;
  std::byte* host_ = nullptr;
  int place_ = 0;
  bool pages_move_ = true;
};

class CudaReplayTest : public testing::Test {
 protected:
  void SetUp() override { begin_on_gpu_under_test(1); }

  static uint64_t calls_of(const std::function<void()>& work) {
    const auto before = emulation::host_calls();
    work();
    const auto after = emulation::host_calls();
    return after.kernels - before.kernels + after.graphs - before.graphs + after.copies - before.copies;
  }
};

TEST_F(CudaReplayTest, TheSameBitsWhateverTheDescriptorsSay) {
  std::vector<std::vector<float>> results[2];
  for (const bool graphs : {false, true}) {
    Steps steps(graphs);
    for (const int spans : {1, 2, 3, 3, 4, 4, 4, 5, 5, 2, 1, 5}) {
      steps.step(spans);
      results[graphs].push_back(steps.result());
    }
    EXPECT_THAT(steps.ops().layers_report(), HasSubstr(graphs ? "graphs; the others" : "none, as asked"));
    if (graphs) {
      EXPECT_THAT(steps.ops().layers_report(), Not(HasSubstr("CUDA graphs: 0 of")));
    }
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(CudaReplayTest, AStepIsAHandfulOfCalls) {
  if (testing_a_gpu()) GTEST_SKIP() << "calls are counted by the emulation";
  uint64_t plain = 0, replayed = 0, same_graph = 0;
  {
    Steps steps(false);
    plain = calls_of([&] { steps.step(3); });
  }
  emulation::restart(1);
  Steps steps(true);
  const uint64_t first = calls_of([&] { steps.step(3); });
  EXPECT_LT(first, plain) << "descriptors of a few layers go together";
  steps.step(3);
  replayed = calls_of([&] { steps.step(3); });
  same_graph = calls_of([&] { steps.step(4); });  // no more than the room there is
  EXPECT_GE(plain, 7u * kLayers);
  EXPECT_LE(replayed, 4u) << "layers by four: their descriptors and their graph";
  EXPECT_EQ(same_graph, replayed);
  EXPECT_THAT(steps.ops().layers_report(), HasSubstr("2 graphs"));
}

// Of the lists of a long context only what has changed is sent.
TEST_F(CudaReplayTest, AStepOfALongContextIsAHandfulOfCallsToo) {
  if (testing_a_gpu()) GTEST_SKIP() << "calls are counted by the emulation";
  Steps steps(true);
  steps.keep_pages();
  EXPECT_GT(calls_of([&] { steps.step(kLongSpans - 2); }), 20u) << "all lists are sent once";
  for (const int spans : {kLongSpans - 2, kLongSpans - 1, kLongSpans}) {
    EXPECT_LE(calls_of([&] { steps.step(spans); }), spans == kLongSpans - 2 ? 2u : 4u);
  }
}

// What the stream is asked for in the middle of a layer comes in its place, and is in no graph.
TEST_F(CudaReplayTest, WaitsAndCopiesStandBetweenGraphs) {
  std::vector<float> results[2];
  for (const bool graphs : {false, true}) {
    begin_on_gpu_under_test(5);
    Steps steps(graphs);
    const auto other = steps.device().make_copy_stream("copies", 0);
    for (int i = 0; i < 4; i++) {
      steps.step(2, [&](int layer) {
        const View x = steps.x();
        if (layer == 1) steps.stream().copy(x.data, x.data + 7 * kWidth * sizeof(float), kWidth * sizeof(float) / 2);
        if (layer != 4) return;
        other->wait_for(steps.stream().record());
        other->copy(x.data, x.data + 8 * kWidth * sizeof(float), 64);
        steps.stream().wait_for(other->record());
      });
    }
    EXPECT_THAT(steps.ops().layers_report(), HasSubstr(graphs ? "graphs; the others" : "none, as asked"));
    if (graphs) {
      EXPECT_THAT(steps.ops().layers_report(), Not(HasSubstr("CUDA graphs: 0 of")));
    }
    results[graphs] = steps.result();
  }
  EXPECT_EQ(results[0], results[1]);
}

// Addresses that change from step to step are never taken for those of a graph; few are remembered.
TEST_F(CudaReplayTest, WhatChangesIsNotReplayed) {
  Steps steps(true);
  for (int i = 0; i < 40; i++) {
    const View x = steps.x();
    View changing = x.slice_cols(0, 1 + i % 20);
    steps.step(1, [&](int) { steps.ops().scale(steps.stream(), changing, 0.5f); });
  }
  EXPECT_THAT(steps.ops().layers_report(), HasSubstr("CUDA graphs: 0 of"));
}

TEST_F(CudaReplayTest, WhatCannotBeCapturedIsLaunchedAndSaid) {
  if (testing_a_gpu()) GTEST_SKIP() << "a GPU does not refuse";
  emulation::refuse_graphs();
  std::vector<float> refused;
  {
    Steps steps(true);
    for (int i = 0; i < 3; i++) steps.step(2);
    refused = steps.result();
    EXPECT_EQ(emulation::host_calls().graphs, 0u);
    EXPECT_EQ(steps.ops().layers_report(), "CUDA graphs: none: operation not supported");
  }
  emulation::restart(1);
  Steps steps(false);
  for (int i = 0; i < 3; i++) steps.step(2);
  EXPECT_EQ(refused, steps.result());
  EXPECT_THAT(steps.ops().layers_report(), HasSubstr("none, as asked"));
}

}  // namespace
}  // namespace spillway
