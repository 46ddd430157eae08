// A selection within decode steps that are replayed as CUDA graphs: the context grows with every step, and the calls
// stay the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/blocks.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

using testing::HasSubstr;

constexpr int kHeads = 4, kKvHeads = 2, kHeadDim = 32, kGranule = 4, kLayers = 6, kMostTokens = 400;
constexpr int kWidth = kHeads * kHeadDim;
constexpr PartialKeyFormat kFormat{.kv_heads = kKvHeads, .rank = 16, .bits = 4};
const AttendShape kShape{{DType::f16, kKvHeads, kHeadDim}, kHeads, 0.2f};

class Steps {
 public:
  explicit Steps(bool graphs)
      : device_(nullptr, table_under_test(), 0, graphs),
        stream_(device_.make_compute_stream("compute")),
        scratch_(device_, device_.ops().scratch_bytes(model(), 1)),
        x_(device_, DType::f32, 1, kWidth),
        normed_(device_, DType::f32, 1, kWidth),
        gain_(device_, DType::f32, 1, kWidth),
        basis_(device_, DType::f32, kKvHeads * kFormat.rank, kHeadDim),
        mean_(device_, DType::f32, kKvHeads, kHeadDim),
        pages_(device_, (kMostTokens / kPageTokens + 1) * kShape.format.row_of_pages_bytes()),
        partial_(device_, (kMostTokens / kPageTokens + 1) * kFormat.row_bytes()),
        scores_(device_, DType::f32, kHeads, score_columns(kFormat, kMostTokens)),
        weights_(device_, DType::f32, kKvHeads, kMostTokens),
        ids_(device_, DType::i32, kKvHeads, kMostTokens),
        places_(device_, kKvHeads * kMostTokens * sizeof(GranulePlace)),
        states_(device_, DType::f32, 1, kHeads * attn_state_floats(kHeadDim)) {
    device_.ops().set_scratch(scratch_.there(), scratch_.size());
    BenchMatrix* all[] = {&x_, &gain_, &basis_, &mean_};
    for (int i = 0; i < 4; i++) {
      all[i]->fill(static_cast<uint64_t>(i));
      all[i]->upload(*stream_);
    }
    fill_random_row(RandomBits(9), DType::f16, static_cast<int64_t>(pages_.size() / 2), 1.0, pages_.here());
    pages_.upload(*stream_);
    partial_.upload(*stream_);
  }
  ~Steps() {
    stream_->synchronize();
    device_.ops().set_scratch(nullptr, 0);
  }

  Ops& ops() { return device_.ops(); }

  // The partial keys of all tokens; then one layer's after another.
  void step(int tokens) {
    Stream& s = *stream_;
    const PartialKeyBasis basis{basis_.there(), basis_.there(), mean_.there()};
    const int granules = (tokens + kGranule - 1) / kGranule, count = (granules + 1) / 2;
    std::vector<const std::byte*> rows;
    std::vector<PartialKeyRun> runs;
    for (int t = 0; t < tokens; t += kPageTokens) {
      const int page = t / kPageTokens;
      rows.push_back(partial_.there() + page * kFormat.row_bytes());
      runs.push_back({pages_.there() + page * kShape.format.row_of_pages_bytes(),
                      partial_.there() + page * kFormat.row_bytes(), 0, std::min(kPageTokens, tokens - t)});
    }
    ops().partial_keys(s, kShape.format, kFormat, basis, runs);
    place(granules, count, tokens);
    const SelectedKv kv{reinterpret_cast<const GranulePlace*>(places_.there()), count, kGranule};
    for (int layer = 0; layer < kLayers; layer++) {
      ops().begin_layer(s, layer);
      ops().norm(s, x_.there(), gain_.there(), 1e-5f, normed_.there());
      const PartialKeyRun newest{runs.back().page_row, runs.back().partial, runs.back().count - 1, 1};
      ops().partial_keys(s, kShape.format, kFormat, basis, {&newest, 1});
      ops().score_keys(s, normed_.there(), kShape, kFormat, basis, rows, tokens, kGranule,
                       part(scores_, score_columns(kFormat, tokens)), part(weights_, granules));
      ops().choose_granules(s, part(weights_, granules), {granules, count, 1, 2}, part(ids_, count));
      ops().attend_selected(s, normed_.there(), kShape, kv, states_.there());
      const MergeTask merge{0, 0, 1};
      ops().merge(s, states_.there(), kShape, {&merge, 1}, normed_.there());
      ops().add(s, x_.there(), normed_.there());
    }
    ops().end_layers();
    x_.download(s);
    ids_.download(s);
    result.assign(x_.row(0), x_.row(0) + kWidth);
    const auto* ids = reinterpret_cast<const int32_t*>(ids_.here().row(1));
    chosen.assign(ids, ids + count);
  }

  std::vector<float> result;
  std::vector<int32_t> chosen;

 private:
  static ModelShape model() {
    return {.layers = kLayers, .hidden = kWidth, .heads = kHeads, .kv_heads = kKvHeads, .head_dim = kHeadDim};
  }
  static View part(BenchMatrix& matrix, int64_t cols) { return matrix.there().slice_cols(0, cols); }

  // Every other granule, and the last.
  void place(int granules, int count, int tokens) {
    auto* list = reinterpret_cast<GranulePlace*>(places_.here());
    for (int i = 0; i < kKvHeads * count; i++) {
      const int granule = i % count == count - 1 ? granules - 1 : 2 * (i % count), token = granule * kGranule;
      const std::byte* page = pages_.there() + token / kPageTokens * kShape.format.row_of_pages_bytes() +
                              i / count * kShape.format.page_bytes();
      const std::byte* keys = page + token % kPageTokens * kShape.format.token_bytes();
      list[i] = {keys, keys + kShape.format.page_bytes() / 2, std::min(kGranule, tokens - token), 0};
    }
    places_.upload(*stream_);
  }

  CudaDevice device_;
  std::unique_ptr<Stream> stream_;
  BenchBytes scratch_;
  BenchMatrix x_, normed_, gain_, basis_, mean_;
  BenchBytes pages_, partial_;
  BenchMatrix scores_, weights_, ids_;
  BenchBytes places_;
  BenchMatrix states_;
};

TEST(CudaSelectionReplay, SameBitsAsCallByCall) {
  std::vector<std::vector<float>> results[2];
  std::vector<std::vector<int32_t>> chosen[2];
  for (const bool graphs : {false, true}) {
    begin_on_gpu_under_test(1);
    Steps steps(graphs);
    for (int tokens = 186; tokens < 199; tokens++) {  // over the end of a granule, and of a page
      steps.step(tokens);
      results[graphs].push_back(steps.result);
      chosen[graphs].push_back(steps.chosen);
    }
    if (graphs) {
      EXPECT_THAT(steps.ops().layers_report(), Not(HasSubstr("CUDA graphs: 0 of")));
    }
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(chosen[0], chosen[1]);
  EXPECT_NE(results[0].front(), results[0].back());
}

TEST(CudaSelectionReplay, AStepIsAHandfulOfCalls) {
  if (testing_a_gpu()) GTEST_SKIP() << "calls are counted by the emulation";
  begin_on_gpu_under_test(1);
  Steps steps(true);
  for (const int tokens : {186, 187}) steps.step(tokens);
  const auto before = emulation::host_calls();
  steps.step(191);  // more granules, more of them chosen, another place in the page
  const auto after = emulation::host_calls();
  EXPECT_EQ(after.graphs - before.graphs, 2u) << "layers by four";
  EXPECT_LE(after.kernels - before.kernels, 6u) << "descriptors, and the partial keys outside of the layers";
}

}  // namespace
}  // namespace spillway
