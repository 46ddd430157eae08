#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/reference/dequantize.h"
#include "kernels/reference/reference_ops.h"
#include "tests/support/random_blocks.h"

namespace spillway {
namespace {

constexpr std::array kStoredTypes = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1};

// A matrix with memory of its own; rows lie further apart than they need.
struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t cols)
      : stride(row_bytes(dtype, cols) + 8), bytes(static_cast<size_t>(rows) * stride, std::byte{0xff}) {
    view = {bytes.data(), dtype, rows, cols, stride};
  }
  Matrix(const Matrix& other) : stride(other.stride), bytes(other.bytes), view(other.view) { view.data = bytes.data(); }
  float at(int64_t r, int64_t c) const { return element(view.dtype, view.row(r), c); }

  uint64_t stride;
  std::vector<std::byte> bytes;
  View view;
};

class Reference : public testing::Test {
 protected:
  Matrix random(DType dtype, int64_t rows, int64_t cols, float scale = 1.0f) {
    Matrix matrix(dtype, rows, cols);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; r++) {
      if (std::ranges::find(kStoredTypes, dtype) == kStoredTypes.end()) {  // no quantiser
        fill_random_row(RandomBits(random_()), dtype, cols, scale, matrix.view.row(r));
        continue;
      }
      for (float& value : values) value = normal(random_);
      store_row(dtype, values.data(), cols, matrix.view.row(r));
    }
    return matrix;
  }

  void finish() { stream_->synchronize(); }

  std::mt19937 random_{11};
  std::unique_ptr<Device> device_ = make_reference_device();
  std::unique_ptr<Stream> stream_ = device_->make_compute_stream("reference");
  Ops& ops_ = device_->ops();
};

TEST_F(Reference, Dequantizes) {
  for (const DType type : kWeightTypes) {
    const int cols = std::max(64, info(type).block_elements);
    const Matrix rows = random(type, 3, cols);
    Matrix out(DType::f32, 3, cols);
    ops_.dequantize(*stream_, rows.view, out.view);
    finish();
    for (int r = 0; r < 3; r++) {
      for (int c = 0; c < cols; c++) ASSERT_EQ(out.at(r, c), rows.at(r, c)) << info(type).name;
    }
  }
}

TEST_F(Reference, NormDividesByTheRootOfTheMeanSquare) {
  Matrix x(DType::f32, 2, 4), weight(DType::f32, 1, 4), out(DType::f32, 2, 4);
  const float values[2][4] = {{1, -2, 3, -4}, {0, 0, 0, 0}};
  const float weights[4] = {1, 2, 0.5f, -1};
  for (int r = 0; r < 2; r++) store_row(DType::f32, values[r], 4, x.view.row(r));
  store_row(DType::f32, weights, 4, weight.view.row(0));
  ops_.norm(*stream_, x.view, weight.view, 0.25f, out.view);
  finish();
  for (int i = 0; i < 4; i++) {
    EXPECT_FLOAT_EQ(out.at(0, i), static_cast<float>(values[0][i] * weights[i] / std::sqrt(7.75)));
    EXPECT_EQ(out.at(1, i), 0.0f);
  }
  ops_.norm(*stream_, x.view, weight.view, 0.25f, x.view);  // in place
  finish();
  for (int i = 0; i < 4; i++) EXPECT_EQ(x.at(0, i), out.at(0, i));
}

TEST_F(Reference, MatmulOfEveryType) {
  for (const DType type : kWeightTypes) {
    const int cols = std::max(96, info(type).block_elements);
    const Matrix x = random(DType::f32, 11, cols);
    const Matrix a = random(type, 5, cols), b = random(type, 3, cols);
    const Matrix before = random(DType::f32, 11, 3);
    Matrix out_a(DType::f32, 11, 5), out_b = before;
    const MatmulPart parts[] = {{a.view, out_a.view, false}, {b.view, out_b.view, true}};
    ops_.matmul(*stream_, x.view, parts);
    finish();
    for (int r = 0; r < 11; r++) {
      const auto dot = [&](const Matrix& weight, int n) {
        double sum = 0;
        for (int k = 0; k < cols; k++) sum += static_cast<double>(x.at(r, k)) * weight.at(n, k);
        return sum;
      };
      for (int n = 0; n < 5; n++) ASSERT_EQ(out_a.at(r, n), static_cast<float>(dot(a, n))) << info(type).name;
      for (int n = 0; n < 3; n++) ASSERT_EQ(out_b.at(r, n), static_cast<float>(before.at(r, n) + dot(b, n)));
    }
  }
}

TEST_F(Reference, RowsOfAMatmulDoNotKnowOneAnother) {
  const Matrix x = random(DType::f32, 17, 64), weight = random(DType::q4_1, 7, 64);
  Matrix all(DType::f32, 17, 7), one(DType::f32, 1, 7);
  const MatmulPart together{weight.view, all.view};
  ops_.matmul(*stream_, x.view, {&together, 1});
  for (int r = 0; r < 17; r++) {
    const MatmulPart alone{weight.view, one.view};
    ops_.matmul(*stream_, x.view.slice_rows(r, 1), {&alone, 1});
    finish();
    for (int n = 0; n < 7; n++) ASSERT_EQ(all.at(r, n), one.at(0, n));
  }
}

TEST_F(Reference, RotatesPairsOfBothStyles) {
  constexpr int kHeads = 3, kHeadDim = 8;
  for (const int pairs : {4, 2}) {  // all of the head, or its first half
    for (const RotationStyle style : {RotationStyle::adjacent, RotationStyle::halves}) {
      Matrix x = random(DType::f32, 2, kHeads * kHeadDim), table(DType::f32, 2, 2 * pairs);
      const Matrix before = x;
      for (int r = 0; r < 2; r++) {
        for (int i = 0; i < pairs; i++) {
          table.view.f32(r)[2 * i] = std::cos(0.3f * static_cast<float>(r + i));
          table.view.f32(r)[2 * i + 1] = std::sin(0.3f * static_cast<float>(r + i));
        }
      }
      ops_.rotate(*stream_, x.view, kHeadDim, style, table.view);
      finish();
      for (int r = 0; r < 2; r++) {
        for (int head = 0; head < kHeads; head++) {
          const float* was = before.view.f32(r) + head * kHeadDim;
          const float* is = x.view.f32(r) + head * kHeadDim;
          for (int i = 0; i < pairs; i++) {
            const int a = style == RotationStyle::adjacent ? 2 * i : i;
            const int b = style == RotationStyle::adjacent ? 2 * i + 1 : i + pairs;
            const double angle = 0.3 * (r + i);
            EXPECT_NEAR(is[a], was[a] * std::cos(angle) - was[b] * std::sin(angle), 1e-6);
            EXPECT_NEAR(is[b], was[a] * std::sin(angle) + was[b] * std::cos(angle), 1e-6);
          }
          for (int i = 2 * pairs; i < kHeadDim; i++) EXPECT_EQ(is[i], was[i]);
        }
      }
    }
  }
}

TEST_F(Reference, SwigluGatesBySilu) {
  const Matrix gate = random(DType::f32, 3, 5, 4.0f), up = random(DType::f32, 3, 5);
  Matrix out(DType::f32, 3, 5);
  ops_.activate(*stream_, Activation::silu, gate.view, up.view, out.view);
  finish();
  for (int r = 0; r < 3; r++) {
    for (int i = 0; i < 5; i++) {
      const double g = gate.at(r, i);
      EXPECT_FLOAT_EQ(out.at(r, i), static_cast<float>(g / (1 + std::exp(-g)) * up.at(r, i)));
    }
  }
}

// A layer's keys and values: as floats, and in page rows that `append` wrote.
class ReferenceAttention : public Reference {
 protected:
  void fill(DType dtype, int heads, int kv_heads, int head_dim, int tokens, float scale = 1.0f) {
    shape_ = {{dtype, kv_heads, head_dim}, heads, 1.0f / std::sqrt(static_cast<float>(head_dim))};
    tokens_ = tokens;
    keys_ = std::make_unique<Matrix>(random(DType::f32, tokens, kv_heads * head_dim, scale));
    values_ = std::make_unique<Matrix>(random(DType::f32, tokens, kv_heads * head_dim));
    pages_.assign(static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens), {});
    std::vector<AppendRun> runs;
    for (int first = 0; first < tokens;) {  // in two runs a page, as decoding after a prompt would
      const int page = first / kPageTokens;
      auto& row = pages_[static_cast<size_t>(page)];
      row.resize(shape_.format.row_of_pages_bytes(), std::byte{0xff});
      const int room = (first % kPageTokens < 40 ? 40 : kPageTokens) - first % kPageTokens;
      const int count = std::min(room, tokens - first);
      runs.push_back({row.data(), first % kPageTokens, first, count});
      first += count;
    }
    ops_.append(*stream_, keys_->view, values_->view, shape_.format, runs);
    finish();
  }

  std::vector<KvSpan> spans() const {
    std::vector<KvSpan> result;
    for (int first = 0; first < tokens_; first += kSpanTokens) {
      KvSpan span;
      span.first_position = first;
      span.tokens = std::min(kSpanTokens, tokens_ - first);
      for (int i = 0; i * kPageTokens < span.tokens; i++) {
        span.rows[i] = pages_[static_cast<size_t>(first / kPageTokens + i)].data();
      }
      result.push_back(span);
    }
    return result;
  }

  float stored(int token, int kv_head, int i, bool value) const {
    const KvFormat& format = shape_.format;
    const std::byte* page = pages_[static_cast<size_t>(token / kPageTokens)].data() + kv_head * format.page_bytes();
    return element(format.dtype,
                   page + (value ? format.page_bytes() / 2 : 0) + token % kPageTokens * format.token_bytes(), i);
  }

  // Softmax attention by its definition, over the first `seen` tokens.
  std::vector<double> attention(const float* q, int head, int seen) const {
    const int kv_head = head / (shape_.heads / shape_.format.kv_heads), head_dim = shape_.format.head_dim;
    std::vector<long double> scores;
    long double top = -INFINITY, sum = 0;
    for (int t = 0; t < seen; t++) {
      long double score = 0;
      for (int i = 0; i < head_dim; i++)
        score += static_cast<long double>(q[head * head_dim + i]) * stored(t, kv_head, i, false);
      scores.push_back(score * shape_.scale);
      top = std::max(top, scores.back());
    }
    std::vector<long double> total(static_cast<size_t>(head_dim), 0);
    for (int t = 0; t < seen; t++) {
      const long double weight = std::exp(scores[static_cast<size_t>(t)] - top);
      sum += weight;
      for (int i = 0; i < head_dim; i++) total[static_cast<size_t>(i)] += weight * stored(t, kv_head, i, true);
    }
    std::vector<double> result;
    for (const long double value : total) result.push_back(static_cast<double>(value / sum));
    return result;
  }

  void expect_attention(const Matrix& out, int row, const float* q, int seen) const {
    for (int head = 0; head < shape_.heads; head++) {
      const auto expected = attention(q, head, seen);
      for (int i = 0; i < shape_.format.head_dim; i++) {
        ASSERT_NEAR(out.at(row, head * shape_.format.head_dim + i), expected[static_cast<size_t>(i)], 1e-5)
            << "row " << row << " head " << head;
      }
    }
  }

  int64_t width() const { return static_cast<int64_t>(shape_.heads) * shape_.format.head_dim; }
  int64_t states_width() const {
    return static_cast<int64_t>(shape_.heads) * attn_state_floats(shape_.format.head_dim);
  }

  AttendShape shape_;
  int tokens_ = 0;
  std::unique_ptr<Matrix> keys_, values_;
  std::vector<std::vector<std::byte>> pages_;
};

TEST_F(ReferenceAttention, AppendPutsEveryTokenInItsPlace) {
  for (const DType type : kStoredTypes) {
    fill(type, 2, 2, 32, 150);
    std::vector<std::byte> row(shape_.format.token_bytes());
    for (int t = 0; t < tokens_; t++) {
      for (int head = 0; head < 2; head++) {
        for (const bool value : {false, true}) {
          store_row(type, (value ? *values_ : *keys_).view.f32(t) + head * 32, 32, row.data());
          for (int i = 0; i < 32; i++) ASSERT_EQ(stored(t, head, i, value), element(type, row.data(), i)) << t;
        }
      }
    }
  }
}

TEST_F(ReferenceAttention, SpansMergeToSoftmaxOverAllTokens) {
  for (const DType type : kStoredTypes) {
    fill(type, 6, 2, 32, 1100);
    const Matrix q = random(DType::f32, 2, width());
    const auto parts = spans();
    ASSERT_EQ(parts.size(), 3u);
    Matrix states(DType::f32, 8, states_width()), out(DType::f32, 2, width());
    std::vector<SpanTask> tasks;
    for (int row = 0; row < 2; row++) {
      for (int i = 0; i < 3; i++) tasks.push_back({parts[static_cast<size_t>(i)], row, 4 * row + i});
    }
    ops_.attend(*stream_, q.view, shape_, tasks, states.view);
    const MergeTask merges[] = {{1, 4, 3}, {0, 0, 3}};
    ops_.merge(*stream_, states.view, shape_, merges, out.view);
    finish();
    for (int row = 0; row < 2; row++) expect_attention(out, row, q.view.f32(row), tokens_);
  }
}

TEST_F(ReferenceAttention, LargeScoresNeitherOverflowNorLoseTheirScale) {
  fill(DType::f32, 1, 1, 16, 700, 60.0f);  // scores of some hundreds: exp() of them would overflow
  const Matrix q = random(DType::f32, 1, width(), 10.0f);
  const auto parts = spans();
  Matrix states(DType::f32, 2, states_width()), out(DType::f32, 1, width());
  const SpanTask tasks[] = {{parts[0], 0, 0}, {parts[1], 0, 1}};
  const MergeTask merge{0, 0, 2};
  ops_.attend(*stream_, q.view, shape_, tasks, states.view);
  ops_.merge(*stream_, states.view, shape_, {&merge, 1}, out.view);
  finish();
  EXPECT_GT(std::fabs(states.at(0, 16)), 100.0f);
  expect_attention(out, 0, q.view.f32(), tokens_);
}

TEST_F(ReferenceAttention, ChunkSeesThePastAndItself) {
  fill(DType::f16, 4, 2, 16, 600);
  constexpr int kFirst = 500, kRows = 40;  // crosses from the first span into the second
  const Matrix q = random(DType::f32, kRows, width());
  Matrix states(DType::f32, kRows, states_width()), out(DType::f32, kRows, width());
  const auto parts = spans();
  ops_.attend_chunk(*stream_, q.view, kFirst, shape_, parts, states.view, true);
  std::vector<MergeTask> merges;
  for (int row = 0; row < kRows; row++) merges.push_back({row, row, 1});
  ops_.merge(*stream_, states.view, shape_, merges, out.view);
  finish();
  for (int row = 0; row < kRows; row++) expect_attention(out, row, q.view.f32(row), kFirst + row + 1);
}

TEST_F(ReferenceAttention, SpansMayComeInSeveralCalls) {
  fill(DType::f16, 4, 2, 16, 1200);
  const Matrix q = random(DType::f32, 5, width());
  Matrix together(DType::f32, 5, states_width()), apart(DType::f32, 5, states_width());
  const auto parts = spans();
  ops_.attend_chunk(*stream_, q.view, 1100, shape_, parts, together.view, true);
  for (size_t i = 0; i < parts.size(); i++) {
    ops_.attend_chunk(*stream_, q.view, 1100, shape_, {&parts[i], 1}, apart.view, i == 0);
  }
  finish();
  for (int row = 0; row < 5; row++) {
    for (int i = 0; i < states_width(); i++) ASSERT_EQ(together.at(row, i), apart.at(row, i));
  }
}

TEST_F(ReferenceAttention, EmptyStatesMergeToZeroAndChangeNothing) {
  fill(DType::f32, 2, 1, 16, 10);
  const Matrix q = random(DType::f32, 1, width());
  Matrix states(DType::f32, 3, states_width()), out(DType::f32, 3, width());
  KvSpan empty = spans()[0];
  empty.tokens = 0;
  const SpanTask tasks[] = {{empty, 0, 0}, {spans()[0], 0, 1}, {empty, 0, 2}};
  ops_.attend(*stream_, q.view, shape_, tasks, states.view);
  const MergeTask merges[] = {{0, 0, 1}, {1, 0, 3}, {2, 1, 0}};
  ops_.merge(*stream_, states.view, shape_, merges, out.view);
  finish();
  EXPECT_EQ(states.at(0, 16), -INFINITY);
  EXPECT_EQ(states.at(0, 17), 0.0f);
  for (int i = 0; i < width(); i++) {
    EXPECT_EQ(out.at(0, i), 0.0f);
    EXPECT_EQ(out.at(2, i), 0.0f);
  }
  expect_attention(out, 1, q.view.f32(), 10);
}

TEST_F(ReferenceAttention, DescriptorsMayDieAtOnce) {
  fill(DType::f16, 2, 1, 16, 100);
  const Matrix q = random(DType::f32, 1, width());
  Matrix states(DType::f32, 1, states_width()), out(DType::f32, 1, width());
  std::atomic<bool> open{false};
  static_cast<CpuStream&>(*stream_).enqueue([&] { open.wait(false); });
  std::vector<SpanTask> tasks{{spans()[0], 0, 0}};
  std::vector<MergeTask> merges{{0, 0, 1}};
  ops_.attend(*stream_, q.view, shape_, tasks, states.view);
  ops_.merge(*stream_, states.view, shape_, merges, out.view);
  tasks[0] = {};
  merges[0] = {0, 0, 0};
  open = true;
  open.notify_all();
  finish();
  expect_attention(out, 0, q.view.f32(), 100);
}

}  // namespace
}  // namespace spillway
