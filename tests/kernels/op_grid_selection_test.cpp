// Which granules a decode step reads, on every backend: partial keys, scores and choices against the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/blocks.h"
#include "kernels/kv_codec.h"
#include "kernels/reference/selection.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridSelection : public OpGrid {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int group;
  int kv_heads;
  int head_dim;
  int rank;
  int bits;
};
constexpr Shape kShapes[] = {{7, 2, 64, 32, 4},   {7, 2, 64, 32, 8},   {3, 3, 64, 32, 16},  {1, 1, 64, 64, 4},
                             {1, 2, 32, 8, 4},    {2, 1, 32, 32, 16},  {2, 1, 96, 40, 4},   {2, 2, 80, 24, 8},
                             {1, 1, 128, 64, 4},  {8, 1, 128, 72, 16}, {4, 1, 256, 128, 4}, {70, 1, 16, 16, 8},
                             {1, 2, 256, 256, 8}, {5, 1, 200, 104, 16}};

std::string name_of(const Shape& s) {
  return std::to_string(s.group) + " x " + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim) +
         ", rank " + std::to_string(s.rank) + " in " + std::to_string(s.bits) + " bits";
}
AttendShape attend_shape(const Shape& s) {
  return {{DType::f16, s.kv_heads, s.head_dim}, s.group * s.kv_heads, 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
}
PartialKeyFormat key_format(const Shape& s) { return {.kv_heads = s.kv_heads, .rank = s.rank, .bits = s.bits}; }
ModelShape model_shape(const Shape& s) {
  ModelShape shape;
  shape.heads = s.group * s.kv_heads;
  shape.kv_heads = s.kv_heads;
  shape.head_dim = s.head_dim;
  return shape;
}

// Keys in pages, a basis, and the partial keys, here by the reference.
class Keys {
 public:
  Keys(OpBench& bench, const Shape& s, int tokens)
      : kv_(attend_shape(s).format),
        format_(key_format(s)),
        tokens_(tokens),
        pages(bench.device(), rows() * kv_.row_of_pages_bytes()),
        partial(bench.device(), rows() * format_.row_bytes()),
        keys(bench.device(), DType::f32, s.kv_heads * s.rank, s.head_dim),
        queries(bench.device(), DType::f32, s.kv_heads * s.rank, s.head_dim),
        mean(bench.device(), DType::f32, s.kv_heads, s.head_dim) {
    std::memset(pages.here(), 0xff, pages.size());  // what no token fills is no number: reading it would show
    std::memset(partial.here(), 0xff, partial.size());
    BenchMatrix k(bench.device(), DType::f32, tokens, int64_t{s.kv_heads} * s.head_dim);
    k.fill(21);
    keys.fill(22, 1.0 / std::sqrt(s.head_dim));
    queries.fill(23, 1.0 / std::sqrt(s.head_dim));
    mean.fill(24);
    std::vector<AppendRun> runs;
    for (int t = 0; t < tokens; t += kPageTokens) {
      runs.push_back(
          {pages.here() + t / kPageTokens * kv_.row_of_pages_bytes(), 0, t, std::min(kPageTokens, tokens - t)});
    }
    bench.reference([&](Ops& ops, Stream& stream) {
      ops.append(stream, k.here(), k.here(), kv_, runs);
      ops.partial_keys(stream, kv_, format_, basis(false), all(false));
    });
    for (BenchBytes* bytes : {&pages, &partial}) bytes->upload(bench.stream());
    for (BenchMatrix* matrix : {&keys, &queries, &mean}) matrix->upload(bench.stream());
  }

  int rows() const { return (tokens_ + kPageTokens - 1) / kPageTokens; }
  PartialKeyBasis basis(bool there) const {
    return there ? PartialKeyBasis{keys.there(), queries.there(), mean.there()}
                 : PartialKeyBasis{keys.here(), queries.here(), mean.here()};
  }
  PartialKeyRun run(bool there, int row, int first, int count) {
    return {(there ? pages.there() : pages.here()) + row * kv_.row_of_pages_bytes(),
            (there ? partial.there() : partial.here()) + row * format_.row_bytes(), first, count};
  }
  std::vector<PartialKeyRun> all(bool there) {
    std::vector<PartialKeyRun> runs;
    for (int row = 0; row < rows(); row++) {
      runs.push_back(run(there, row, 0, std::min(kPageTokens, tokens_ - row * kPageTokens)));
    }
    return runs;
  }
  // Page rows, the last first in memory: they lie as they come.
  std::vector<const std::byte*> list(bool there, int tokens) {
    std::vector<const std::byte*> list;
    for (int row = 0; row * kPageTokens < tokens; row++) {
      list.push_back((there ? partial.there() : partial.here()) + row * format_.row_bytes());
    }
    return list;
  }
  // (key - mean) . direction, and what it may be off by in single precision.
  double product(int head, int token, int j, double* error) {
    double sum = 0, terms = 0;
    for (int i = 0; i < kv_.head_dim; i++) {
      uint16_t half;
      const std::byte* row = pages.here() + token / kPageTokens * kv_.row_of_pages_bytes() + head * kv_.page_bytes();
      std::memcpy(&half, row + token % kPageTokens * kv_.token_bytes() + 2 * i, 2);
      const double term = (double{f16_to_f32(half)} - mean.row(head)[i]) * keys.row(head * format_.rank + j)[i];
      sum += term;
      terms += std::abs(term);
    }
    *error = (kv_.head_dim + 4) * kRounding * terms;
    return sum;
  }

 private:
  KvFormat kv_;
  PartialKeyFormat format_;
  int tokens_;

 public:
  BenchBytes pages, partial;
  BenchMatrix keys, queries, mean;
};

// What a code may be off by: half a step, and the rounding of scale and minimum to halves.
double coding_error(const PartialKeyFormat& format, const std::byte* row, int head, int token, double value) {
  if (format.bits == 16) return std::abs(value) * 0x1p-11 + 0x1p-25;
  GroupScale group;
  std::memcpy(&group, row + head * format.page_bytes() + format.scale_at(token), sizeof group);
  const double scale = f16_to_f32(group.scale), minimum = f16_to_f32(group.minimum);
  const double levels = (1 << format.bits) - 1;
  return 0.502 * scale + std::abs(minimum) * 0x1p-11 + levels * scale * 0x1p-10 + 0x1p-24;
}

TEST_P(OpGridSelection, PartialKeysMatchTheReference) {
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(name_of(s));
    OpBench bench(GetParam(), model_shape(s));
    const PartialKeyFormat format = key_format(s);
    Keys keys(bench, s, 150);
    std::memset(keys.partial.here(), 0x5a, keys.partial.size());
    keys.partial.upload(bench.stream());
    // A whole page, parts of one, none of one.
    const std::vector<PartialKeyRun> runs = {keys.run(true, 0, 0, 64), keys.run(true, 1, 3, 1),
                                             keys.run(true, 1, 10, 17), keys.run(true, 1, 60, 4),
                                             keys.run(true, 2, 0, 0)};
    bench.ops().partial_keys(bench.stream(), attend_shape(s).format, format, keys.basis(true), runs);
    keys.partial.download(bench.stream());
    std::vector<double> values(static_cast<size_t>(s.rank));
    for (int token = 0; token < 150; token++) {
      const int in_page = token % kPageTokens;
      const bool wanted =
          token < 64 || (token < 128 && (in_page == 3 || (in_page >= 10 && in_page < 27) || in_page >= 60));
      const std::byte* row = keys.partial.here() + token / kPageTokens * format.row_bytes();
      for (int head = 0; head < s.kv_heads; head++) {
        if (!wanted) {
          const std::byte* page = row + head * format.page_bytes();
          for (int word = 0; word <= format.code_bytes() / 4 - (format.bits == 16 ? 1 : 0); word++) {
            uint32_t bytes;
            std::memcpy(&bytes, page + format.word_at(word, in_page), sizeof bytes);
            ASSERT_EQ(bytes, 0x5a5a5a5au) << "token " << token << ", word " << word;
          }
          continue;
        }
        reference::load_partial_key(format, row, head, in_page, values.data());
        for (int j = 0; j<s.rank; j += s.rank> 64 ? 5 : 1) {
          double error;
          const double exact = keys.product(head, token, j, &error);
          ASSERT_NEAR(values[j], exact, error + coding_error(format, row, head, in_page, exact))
              << "token " << token << ", head " << head << ", " << j;
        }
      }
    }
  }
}

// A token's bits are those that it has alone.
TEST_P(OpGridSelection, PartialKeysKnowNoCompany) {
  for (const Shape& s : {kShapes[0], kShapes[2], kShapes[6], kShapes[10]}) {
    SCOPED_TRACE(name_of(s));
    OpBench bench(GetParam(), model_shape(s));
    Keys keys(bench, s, 64);
    const KvFormat kv = attend_shape(s).format;
    bench.ops().partial_keys(bench.stream(), kv, key_format(s), keys.basis(true), keys.all(true));
    keys.partial.download(bench.stream());
    const std::vector<std::byte> together(keys.partial.here(), keys.partial.here() + keys.partial.size());
    std::memset(keys.partial.here(), 0, keys.partial.size());
    keys.partial.upload(bench.stream());
    for (int first = 0; first < 64;) {
      const int count = std::min(64 - first, 1 + first % 7);
      const PartialKeyRun run = keys.run(true, 0, first, count);
      bench.ops().partial_keys(bench.stream(), kv, key_format(s), keys.basis(true), {&run, 1});
      first += count;
    }
    keys.partial.download(bench.stream());
    EXPECT_TRUE(std::equal(together.begin(), together.end(), keys.partial.here()));
  }
}

// What is no number, or too large for a half, shows.
TEST_P(OpGridSelection, PartialKeysThatAreNoNumbers) {
  for (const int bits : {16, 8, 4}) {
    const Shape s{1, 1, 64, 16, bits};
    OpBench bench(GetParam(), model_shape(s));
    Keys keys(bench, s, 3);
    auto* halves = reinterpret_cast<uint16_t*>(keys.pages.here());
    halves[5] = 0x7c00;  // infinity in token 0
    for (int i = 0; i < 64; i++) keys.keys.row(3)[i] = i == 0 ? 1e6f : 0.0f;
    halves[64] = 0x4900, halves[128] = 0;
    keys.mean.row(0)[0] = 0;  // token 1: 1e7 in direction 3, token 2: 0
    keys.pages.upload(bench.stream());
    keys.keys.upload(bench.stream());
    keys.mean.upload(bench.stream());
    bench.ops().partial_keys(bench.stream(), attend_shape(s).format, key_format(s), keys.basis(true), keys.all(true));
    keys.partial.download(bench.stream());
    std::vector<double> values(16);
    for (int token = 0; token < 3; token++) {
      reference::load_partial_key(key_format(s), keys.partial.here(), 0, token, values.data());
      EXPECT_EQ(std::isfinite(values[3]), token == 2) << bits << " bits, token " << token;
    }
  }
}

struct Scored {
  Scored(OpBench& bench, const Shape& s, Keys& keys, BenchMatrix& q, int tokens, int granule)
      : weights(bench.device(), DType::f32, s.kv_heads, (tokens + granule - 1) / granule, 4, 8) {
    const PartialKeyFormat format = key_format(s);
    BenchMatrix scores(bench.device(), DType::f32, s.group * s.kv_heads, score_columns(format, tokens), 0, 16);
    bench.ops().score_keys(bench.stream(), q.there(), attend_shape(s), format, keys.basis(true),
                           keys.list(true, tokens), tokens, granule, scores.there(), weights.there());
    weights.download(bench.stream());
  }
  BenchMatrix weights;
};

TEST_P(OpGridSelection, ScoresMatchTheReference) {
  for (const Shape& s : kShapes) {
    OpBench bench(GetParam(), model_shape(s));
    const PartialKeyFormat format = key_format(s);
    Keys keys(bench, s, 700);
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{s.group} * s.kv_heads * s.head_dim);
    q.fill(5, 3.0);
    q.upload(bench.stream());
    for (const int tokens : {1, 5, 63, 64, 65, 200, 700}) {
      if (GetParam().emulated && tokens == 700 && s.head_dim > 64) continue;
      for (const int granule : {1, 2, 4, 64}) {
        SCOPED_TRACE(name_of(s) + ", " + std::to_string(tokens) + " tokens by " + std::to_string(granule));
        const Scored got(bench, s, keys, q, tokens, granule);
        BenchMatrix wanted(bench.device(), DType::f32, s.kv_heads, got.weights.here().cols);
        BenchMatrix scores(bench.device(), DType::f32, s.group * s.kv_heads, score_columns(format, tokens));
        bench.reference([&](Ops& ops, Stream& stream) {
          ops.score_keys(stream, q.here(), attend_shape(s), format, keys.basis(false), keys.list(false, tokens), tokens,
                         granule, scores.here(), wanted.here());
        });
        for (int head = 0; head < s.kv_heads; head++) {
          double sum = 0;
          for (int64_t g = 0; g < wanted.here().cols; g++) {
            // Of scores up to 30, made of terms of up to 100 in single precision.
            ASSERT_NEAR(got.weights.row(head)[g], wanted.row(head)[g], 2e-4 * wanted.row(head)[g] + 1e-7) << g;
            sum += got.weights.row(head)[g];
          }
          ASSERT_NEAR(sum, s.group, 1e-5 * s.group) << "each head has one softmax";
        }
      }
    }
  }
}

// With all directions of a basis that is one, the scores are those of attention itself.
TEST_P(OpGridSelection, ScoresOfAWholeBasisAreAttentions) {
  const Shape s{2, 2, 32, 32, 16};
  constexpr int kTokens = 130;
  OpBench bench(GetParam(), model_shape(s));
  Keys keys(bench, s, kTokens);
  for (BenchMatrix* basis : {&keys.keys, &keys.queries}) {
    for (int j = 0; j < 64; j++) {
      for (int i = 0; i < 32; i++) basis->row(j)[i] = i == j % 32 ? 1.0f : 0.0f;
    }
    basis->upload(bench.stream());
  }
  keys.mean.fill(1, 0.0);
  keys.mean.upload(bench.stream());
  BenchMatrix q(bench.device(), DType::f32, 1, 4 * 32);
  q.fill(5, 3.0);
  q.upload(bench.stream());
  bench.ops().partial_keys(bench.stream(), attend_shape(s).format, key_format(s), keys.basis(true), keys.all(true));
  const Scored got(bench, s, keys, q, kTokens, 1);
  for (int kv_head = 0; kv_head < 2; kv_head++) {
    std::vector<double> wanted(kTokens, 0.0);
    for (int head = 2 * kv_head; head < 2 * kv_head + 2; head++) {
      std::vector<double> weight(kTokens);
      double sum = 0;
      for (int t = 0; t < kTokens; t++) {
        const auto* key =
            reinterpret_cast<const uint16_t*>(keys.pages.here() + t / 64 * attend_shape(s).format.row_of_pages_bytes() +
                                              kv_head * attend_shape(s).format.page_bytes() + t % 64 * 64);
        double score = 0;
        for (int i = 0; i < 32; i++) score += double{q.row(0)[head * 32 + i]} * f16_to_f32(key[i]);
        sum += weight[t] = std::exp(score / std::sqrt(32.0));
      }
      for (int t = 0; t < kTokens; t++) wanted[t] += weight[t] / sum;
    }
    for (int t = 0; t < kTokens; t++) ASSERT_NEAR(got.weights.row(kv_head)[t], wanted[t], 1e-5 * wanted[t] + 1e-9) << t;
  }
}

TEST_P(OpGridSelection, ScoresThatAreNoNumbers) {
  const Shape s{2, 2, 64, 16, 4};
  OpBench bench(GetParam(), model_shape(s));
  const PartialKeyFormat format = key_format(s);
  Keys keys(bench, s, 200);
  // Token 70 of head 1.
  std::byte* scale = keys.partial.here() + format.row_bytes() + format.page_bytes() + format.scale_at(6);
  std::memcpy(scale, &kNoScale, sizeof kNoScale);
  keys.partial.upload(bench.stream());
  BenchMatrix q(bench.device(), DType::f32, 1, 4 * 64);
  q.fill(5);
  q.upload(bench.stream());
  const Scored got(bench, s, keys, q, 200, 4);
  for (int g = 0; g < 50; g++) {
    EXPECT_FALSE(std::isnan(got.weights.row(0)[g]));
    EXPECT_TRUE(std::isnan(got.weights.row(1)[g]));
  }
}

TEST_P(OpGridSelection, ThreadsDoNotChangeTheScores) {
  const Shape s = kShapes[0];
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    OpBench bench(GetParam(), model_shape(s), 1, threads);
    Keys keys(bench, s, 700);
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{14} * 64);
    q.fill(5, 3.0);
    q.upload(bench.stream());
    const Scored got(bench, s, keys, q, 700, 4);
    const std::vector<float> all(got.weights.row(1), got.weights.row(1) + 175);
    if (threads == 1) first = all;
    EXPECT_EQ(all, first);
  }
}

// ---- choices

void expect_choice(const Backend& backend, const std::vector<float>& row, const GranuleChoice& choice) {
  OpBench bench(backend);
  BenchMatrix weights(bench.device(), DType::f32, 2, choice.granules, 4, 12);
  BenchMatrix ids(bench.device(), DType::i32, 2, choice.count, 8, 4);
  for (int i = 0; i < choice.granules; i++) {
    weights.row(0)[i] = row[static_cast<size_t>(i)];
    weights.row(1)[i] = row[row.size() - 1 - static_cast<size_t>(i)];
  }
  weights.upload(bench.stream());
  bench.ops().choose_granules(bench.stream(), weights.there(), choice, ids.there());
  ids.download(bench.stream());
  for (int head = 0; head < 2; head++) {
    std::vector<int32_t> wanted(static_cast<size_t>(choice.count));
    reference::choose_granules(weights.row(head), choice, wanted.data());
    for (int i = 0; i < choice.count; i++) {
      ASSERT_EQ(reinterpret_cast<const int32_t*>(ids.here().row(head))[i], wanted[static_cast<size_t>(i)])
          << i << " of " << choice.count << " of " << choice.granules << ", " << choice.first << " first, "
          << choice.last << " last";
    }
  }
}

TEST_P(OpGridSelection, ChoicesAreTheReferences) {
  std::mt19937 random(3);
  for (const int granules : {1, 2, 7, 32, 63, 257, 1025, 5000, 40000}) {
    if (GetParam().emulated && granules > 5000) continue;
    std::vector<float> weights(static_cast<size_t>(granules));
    for (float& w : weights) w = std::exp(-std::uniform_real_distribution<float>(0, 60)(random));
    for (const int count : {1, (granules + 9) / 10, granules / 2, granules - 1, granules}) {
      if (count < 1) continue;
      expect_choice(GetParam(), weights, {granules, count, 0, 0});
      expect_choice(GetParam(), weights,
                    {granules, count, std::min(1, count), std::min(8, count - std::min(1, count))});
      expect_choice(GetParam(), weights, {granules, count, count / 2, count - count / 2});  // all of them forced
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OpGridSelection, ChoicesAmongEqualsAndNoNumbers) {
  const std::vector<std::vector<float>> rows = {
      std::vector<float>(100, 0.0f),
      std::vector<float>(100, kNan),
      {0.0f, -0.0f, 0.0f, -0.0f, 1.0f, -0.0f, 0.0f},
      {kNan, -1.0f, kNan, -kInfinity, 2.0f, kInfinity, 0.0f, 1e-45f, -1e-45f, kNan},
      {1.0f, 1.0f, 2.0f, 2.0f, 1.0f, 2.0f, 1.0f, 1.0f, 0x1.000002p0f, 1.0f, 2.0f, 1.0f, 1.0f},
      {-3.0f, -2.0f, -2.0f, -5.0f, -kInfinity, -1.0f},
  };
  std::vector<float> few(3000);  // of three values
  for (size_t i = 0; i < few.size(); i++) few[i] = static_cast<float>(i * 7 % 3);
  for (const std::vector<float>& row : rows) {
    const auto n = static_cast<int>(row.size());
    for (int count = 1; count <= n; count += n > 20 ? 13 : 1) {
      expect_choice(GetParam(), row, {n, count, 0, 0});
      if (count > 3) expect_choice(GetParam(), row, {n, count, 1, 2});
      if (HasFatalFailure()) return;
    }
  }
  for (const int count : {1, 999, 1000, 1001, 2345}) expect_choice(GetParam(), few, {3000, count, 0, count / 5});
}

// How many are chosen follows from the weights. Of whole numbers and halves, whose sums are exact in any order.
TEST_P(OpGridSelection, ChoicesThatFollowTheWeights) {
  std::mt19937 random(5);
  for (const int granules : {9, 100, 1500}) {
    if (GetParam().emulated && granules == 100) continue;
    std::vector<float> weights(static_cast<size_t>(granules));
    for (float& w : weights) w = random() % 3 == 0 ? static_cast<float>(random() % 64) / 2 : 0.0f;
    weights[3] = kNan;
    double total = 0;
    for (const float w : weights) total += std::isnan(w) ? 0 : w;
    for (const int count : {3, granules / 2, granules}) {
      for (const int scored : {granules, granules - 1}) {
        if (GetParam().emulated && (scored < granules || count == granules / 2)) continue;
        for (const float of_largest : {0.0f, 0.01f, 0.5f, 1.0f}) {
          for (const double share : {0.0, 0.25, 0.9, 1.0, 2.0}) {
            if (of_largest == 0 && share == 0) continue;
            if (GetParam().emulated && (of_largest == 0.01f || share > 1)) continue;
            expect_choice(GetParam(), weights,
                          {.granules = granules,
                           .count = count,
                           .first = 1,
                           .last = 1,
                           .of_largest = of_largest,
                           .mass = static_cast<float>(std::round(total * share)),
                           .scored = scored});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// By hand: of 7, 4, 2, 2, 1, 0 and the newest, whose weight is not known.
TEST_P(OpGridSelection, ChoicesThatFollowTheWeightsByHand) {
  const std::vector<float> weights = {1.0f, 7.0f, 2.0f, 4.0f, 0.0f, 2.0f, kNan};
  const auto chosen = [&](float of_largest, float mass) {
    OpBench bench(GetParam());
    BenchMatrix row(bench.device(), DType::f32, 1, 7), ids(bench.device(), DType::i32, 1, 7);
    std::copy(weights.begin(), weights.end(), row.row(0));
    row.upload(bench.stream());
    bench.ops().choose_granules(bench.stream(), row.there(), {7, 7, 1, 1, of_largest, mass, 6}, ids.there());
    ids.download(bench.stream());
    const auto* got = reinterpret_cast<const int32_t*>(ids.here().row(0));
    return std::vector<int32_t>(got, got + 7);
  };
  constexpr int32_t no = kNoGranule;
  EXPECT_EQ(chosen(0.5f, 0), (std::vector<int32_t>{0, 1, 3, 6, no, no, no})) << "at least 3.5";
  EXPECT_EQ(chosen(0.25f, 0), (std::vector<int32_t>{0, 1, 2, 3, 5, 6, no})) << "at least 1.75";
  EXPECT_EQ(chosen(0, 8), (std::vector<int32_t>{0, 1, 6, no, no, no, no})) << "1 + 7";
  EXPECT_EQ(chosen(0, 9), (std::vector<int32_t>{0, 1, 3, 6, no, no, no})) << "1 + 7 are less";
  EXPECT_EQ(chosen(0, 13), (std::vector<int32_t>{0, 1, 2, 3, 5, 6, no})) << "equals are alike";
  EXPECT_EQ(chosen(0, 1), (std::vector<int32_t>{0, 6, no, no, no, no, no})) << "the first is enough";
}

// The first and the last are chosen whatever their weights (rehearsals that forget them look much like those that do
// not).
TEST_P(OpGridSelection, SinksAndWindowAreAlwaysChosen) {
  std::vector<float> weights(200, 1.0f);
  std::fill_n(weights.begin(), 2, 0.0f);
  std::fill_n(weights.end() - 9, 9, kNan);
  OpBench bench(GetParam());
  BenchMatrix row(bench.device(), DType::f32, 1, 200);
  BenchMatrix ids(bench.device(), DType::i32, 1, 20);
  std::copy(weights.begin(), weights.end(), row.row(0));
  row.upload(bench.stream());
  bench.ops().choose_granules(bench.stream(), row.there(), {200, 20, 1, 9}, ids.there());
  ids.download(bench.stream());
  const auto* got = reinterpret_cast<const int32_t*>(ids.here().row(0));
  const std::vector<int32_t> wanted = {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 191, 192, 193, 194, 195, 196, 197, 198, 199};
  EXPECT_EQ(std::vector<int32_t>(got, got + 20), wanted);
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridSelection);

}  // namespace
}  // namespace spillway
