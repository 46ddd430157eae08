// AVX2 and AVX-512 take the same steps: a model gives the same bits on either (kernels/cpu/kernels.h).
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

// One layer's worth of every operation whose result could differ; all outputs, one after the other.
class Layer {
 public:
  explicit Layer(const Backend& backend) : bench_(backend, shape(), kRows) {}

  std::vector<float> run() {
    BenchMatrix x(bench_.device(), DType::f32, kRows, kWidth);
    BenchMatrix weight(bench_.device(), DType::f32, 1, kWidth);
    x.fill(1);
    weight.fill(2);
    x.upload(bench_.stream());
    weight.upload(bench_.stream());
    BenchMatrix normed(bench_.device(), DType::f32, kRows, kWidth);
    bench_.ops().norm(bench_.stream(), x.there(), weight.there(), 1e-5f, normed.there());
    keep(normed);
    for (DType type : kWeightTypes) {
      for (int64_t rows : {int64_t{1}, kRows}) keep(product(type, normed.there().slice_rows(0, rows)));
    }
    BenchMatrix turned(bench_.device(), DType::f32, kRows, kWidth);
    turned.fill(5);
    turned.upload(bench_.stream());
    bench_.ops().activate(bench_.stream(), Activation::silu, x.there(), normed.there(), turned.there());
    keep(turned);
    attention(normed, DType::f32);
    attention(normed, DType::f16);
    return std::move(all_);
  }

 private:
  static constexpr int64_t kRows = 70;
  static constexpr int kHeads = 6;
  static constexpr int kKvHeads = 2;
  static constexpr int kHeadDim = 72;
  static constexpr int64_t kWidth = 512;  // above kHeads * kHeadDim

  static ModelShape shape() {
    ModelShape s;
    s.hidden = kWidth;
    s.heads = kHeads;
    s.kv_heads = kKvHeads;
    s.head_dim = kHeadDim;
    return s;
  }

  void keep(BenchMatrix& m) {
    m.download(bench_.stream());
    for (int64_t r = 0; r < m.here().rows; r++) all_.insert(all_.end(), m.row(r), m.row(r) + m.here().cols);
  }
  void keep(const std::vector<float>& values) { all_.insert(all_.end(), values.begin(), values.end()); }

  std::vector<float> product(DType type, View x) {
    BenchMatrix weight(bench_.device(), type, 45, kWidth);
    BenchMatrix out(bench_.device(), DType::f32, x.rows, 45);
    weight.fill(7);
    weight.upload(bench_.stream());
    const MatmulPart part{weight.there(), out.there(), false};
    bench_.ops().matmul(bench_.stream(), x, {&part, 1});
    out.download(bench_.stream());
    return {out.row(0), out.row(0) + x.rows * 45};
  }

  void attention(BenchMatrix& x, DType type) {
    const AttendShape shape{{type, kKvHeads, kHeadDim}, kHeads, 0.3f};
    BenchBytes pages(bench_.device(), 2 * shape.format.row_of_pages_bytes());
    BenchMatrix k(bench_.device(), DType::f32, kRows, kKvHeads * kHeadDim);
    k.fill(9);
    k.upload(bench_.stream());
    KvSpan span;
    span.tokens = kRows;
    span.rows[0] = pages.there();
    span.rows[1] = pages.there() + shape.format.row_of_pages_bytes();
    const AppendRun runs[] = {{pages.there(), 0, 0, 64},
                              {pages.there() + shape.format.row_of_pages_bytes(), 0, 64, kRows - 64}};
    bench_.ops().append(bench_.stream(), k.there(), k.there(), shape.format, runs);
    BenchMatrix states(bench_.device(), DType::f32, kRows, kHeads * attn_state_floats(kHeadDim));
    BenchMatrix out(bench_.device(), DType::f32, kRows, kHeads * kHeadDim);
    const View q = x.there().slice_cols(0, kHeads * kHeadDim);
    bench_.ops().attend_chunk(bench_.stream(), q, 0, shape, {&span, 1}, states.there(), true);
    std::vector<MergeTask> tasks;
    for (int r = 0; r < kRows; r++) tasks.push_back({r, r, 1});
    bench_.ops().merge(bench_.stream(), states.there(), shape, tasks, out.there());
    keep(states);
    keep(out);
    if (type != DType::f16) return;
    policies(shape, q, span, states, runs_of(span));
    for (const int bits : {16, 8, 4}) selection(shape, q.slice_rows(0, 1), span, {kKvHeads, 24, bits});
  }

  static std::vector<PartialKeyRun> runs_of(const KvSpan& span) {
    return {{span.rows[0], nullptr, 0, 64}, {span.rows[1], nullptr, 0, kRows - 64}};
  }

  // By 4: more granules than there are lanes.
  void policies(const AttendShape& shape, View q, const KvSpan& span, BenchMatrix& states,
                std::vector<PartialKeyRun> runs) {
    constexpr int kGranules = (kRows + 3) / 4;
    const KeyBoundsFormat format{kKvHeads, kHeadDim, 4};
    BenchBytes bounds(bench_.device(), 2 * format.row_bytes());
    const std::byte* rows[] = {bounds.there(), bounds.there() + format.row_bytes()};
    runs[0].partial = bounds.there();
    runs[1].partial = bounds.there() + format.row_bytes();
    BenchMatrix scores(bench_.device(), DType::f32, kHeads, kGranules);
    BenchMatrix weights(bench_.device(), DType::f32, kKvHeads, kGranules);
    bench_.ops().key_bounds(bench_.stream(), shape.format, 4, runs);
    bench_.ops().score_bounds(bench_.stream(), q.slice_rows(0, 1), shape, rows, kRows, 4, scores.there(),
                              weights.there());
    keep(weights);
    bench_.ops().sum_attention(bench_.stream(), q, 0, shape, {&span, 1}, states.there(), 4, weights.there());
    keep(weights);
  }

  void selection(const AttendShape& shape, View q, const KvSpan& span, const PartialKeyFormat& format) {
    BenchMatrix basis(bench_.device(), DType::f32, kKvHeads * format.rank, kHeadDim);
    BenchMatrix mean(bench_.device(), DType::f32, kKvHeads, kHeadDim);
    basis.fill(10, 0.1);
    mean.fill(11);
    basis.upload(bench_.stream());
    mean.upload(bench_.stream());
    const PartialKeyBasis all{basis.there(), basis.there(), mean.there()};
    BenchBytes partial(bench_.device(), 2 * format.row_bytes());
    const std::byte* rows[] = {partial.there(), partial.there() + format.row_bytes()};
    const PartialKeyRun runs[] = {{span.rows[0], partial.there(), 0, 64},
                                  {span.rows[1], partial.there() + format.row_bytes(), 0, kRows - 64}};
    BenchMatrix scores(bench_.device(), DType::f32, kHeads, score_columns(format, kRows));
    BenchMatrix weights(bench_.device(), DType::f32, kKvHeads, (kRows + 3) / 4);
    bench_.ops().partial_keys(bench_.stream(), shape.format, format, all, runs);
    bench_.ops().score_keys(bench_.stream(), q, shape, format, all, rows, kRows, 4, scores.there(), weights.there());
    keep(weights);
  }

  OpBench bench_;
  std::vector<float> all_;
};

TEST(OpGridIsa, Avx2AndAvx512GiveTheSameBits) {
  if (widest_isa() != CpuIsa::avx512) GTEST_SKIP() << "this CPU has no AVX-512";
  std::vector<std::vector<float>> results;
  for (const Backend& backend : backends()) {
    if (backend.name == "cpu_avx2" || backend.name == "cpu_avx512") results.push_back(Layer(backend).run());
  }
  ASSERT_EQ(results.size(), 2u);
  ASSERT_EQ(results[0].size(), results[1].size());
  for (size_t i = 0; i < results[0].size(); i++) {
    ASSERT_TRUE(std::isfinite(results[0][i])) << i;
    ASSERT_EQ(std::memcmp(&results[0][i], &results[1][i], sizeof(float)), 0)
        << i << ": " << results[0][i] << " and " << results[1][i];
  }
}

}  // namespace
}  // namespace spillway
