// Operations that work row by row, on every backend, against the reference in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference/dequantize.h"
#include "tests/support/logit_rows.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridRows : public OpGrid {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Lie {
  uint64_t offset;
  uint64_t gap;
};
constexpr Lie kLies[] = {{0, 0}, {4, 0}, {12, 20}};

TEST_P(OpGridRows, DequantizeIsExact) {
  SPILLWAY_REQUIRE_OP(dequantize);
  OpBench bench(GetParam());
  for (DType type : kWeightTypes) {
    for (int64_t cols : {1, 15, 31, 32, 96, 256, 1000, 1056, 1280}) {
      if (cols % info(type).block_elements != 0) continue;
      for (const Lie& lie : kLies) {
        for (int64_t rows : {0, 1, 3, 40}) {
          BenchMatrix in(bench.device(), type, rows, cols, lie.offset, lie.gap);
          BenchMatrix out(bench.device(), DType::f32, rows, cols, lie.offset, lie.gap);
          in.fill(static_cast<uint64_t>(cols), 4.0);
          in.upload(bench.stream());
          bench.ops().dequantize(bench.stream(), in.there(), out.there());
          out.download(bench.stream());
          for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < cols; c++) {
              ASSERT_EQ(out.row(r)[c], static_cast<float>(element(type, in.here().row(r), c)))
                  << info(type).name << " " << r << ", " << c;
            }
          }
        }
      }
    }
  }
}

TEST_P(OpGridRows, NormIsWithinRounding) {
  SPILLWAY_REQUIRE_OP(norm);
  OpBench bench(GetParam());
  for (int64_t cols : {1, 7, 16, 17, 63, 64, 100, 576, 4097}) {
    for (int64_t rows : {0, 1, 5, 70}) {
      for (const Lie& lie : kLies) {
        for (bool in_place : {false, true}) {
          BenchMatrix x(bench.device(), DType::f32, rows, cols, lie.offset, lie.gap);
          BenchMatrix weight(bench.device(), DType::f32, 1, cols, lie.offset);
          BenchMatrix out(bench.device(), DType::f32, rows, cols, lie.offset, lie.gap);
          BenchMatrix wanted(bench.device(), DType::f32, rows, cols);
          x.fill(static_cast<uint64_t>(cols));
          weight.fill(9);
          for (int64_t r = 0; r < rows; r++) x.row(r)[cols - 1] = 30.0f;  // missing it would be seen
          bench.reference([&](Ops& ops, Stream& s) { ops.norm(s, x.here(), weight.here(), 1e-5f, wanted.here()); });
          x.upload(bench.stream());
          weight.upload(bench.stream());
          bench.ops().norm(bench.stream(), x.there(), weight.there(), 1e-5f, in_place ? x.there() : out.there());
          BenchMatrix& result = in_place ? x : out;
          result.download(bench.stream());
          const double bound = (static_cast<double>(cols) / 64 + 12) * kRounding;
          for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < cols; c++) {
              ASSERT_NEAR(result.row(r)[c], wanted.row(r)[c], bound * std::abs(wanted.row(r)[c]))
                  << cols << ": " << r << ", " << c;
            }
          }
        }
      }
    }
  }
}

TEST_P(OpGridRows, RotateIsWithinRounding) {
  SPILLWAY_REQUIRE_OP(rotate);
  OpBench bench(GetParam());
  struct Case {
    int64_t rows;
    int heads;
    int head_dim;
    int pairs;
  };
  for (const Case& c : {Case{1, 9, 64, 32}, Case{70, 3, 64, 32}, Case{5, 2, 80, 40}, Case{4, 3, 96, 20},
                        Case{2, 1, 128, 0}, Case{3, 5, 10, 5}, Case{0, 2, 64, 32}}) {
    for (RotationStyle style : {RotationStyle::adjacent, RotationStyle::halves}) {
      for (const Lie& lie : kLies) {
        const int64_t cols = int64_t{c.heads} * c.head_dim;
        BenchMatrix x(bench.device(), DType::f32, c.rows, cols, lie.offset, lie.gap);
        BenchMatrix table(bench.device(), DType::f32, c.rows, 2 * c.pairs, lie.offset, lie.gap);
        BenchMatrix wanted(bench.device(), DType::f32, c.rows, cols);
        x.fill(1);
        table.fill(2, 0.7);
        for (int64_t r = 0; r < c.rows; r++) std::memcpy(wanted.row(r), x.row(r), cols * sizeof(float));
        bench.reference([&](Ops& ops, Stream& s) { ops.rotate(s, wanted.here(), c.head_dim, style, table.here()); });
        x.upload(bench.stream());
        table.upload(bench.stream());
        bench.ops().rotate(bench.stream(), x.there(), c.head_dim, style, table.there());
        x.download(bench.stream());
        for (int64_t r = 0; r < c.rows; r++) {
          for (int64_t i = 0; i < cols; i++)
            ASSERT_NEAR(x.row(r)[i], wanted.row(r)[i], 48 * kRounding) << r << ", " << i;
        }
      }
    }
  }
}

TEST_P(OpGridRows, SwigluIsWithinRounding) {
  SPILLWAY_REQUIRE_OP(activate);
  OpBench bench(GetParam());
  for (int64_t cols : {1, 5, 16, 33, 1536}) {
    for (int64_t rows : {0, 1, 4, 70}) {
      for (int alias : {0, 1, 2}) {
        BenchMatrix gate(bench.device(), DType::f32, rows, cols, 4, 8);
        BenchMatrix up(bench.device(), DType::f32, rows, cols);
        BenchMatrix out(bench.device(), DType::f32, rows, cols, 8);
        BenchMatrix wanted(bench.device(), DType::f32, rows, cols);
        gate.fill(1, 6.0);
        up.fill(2);
        bench.reference(
            [&](Ops& ops, Stream& s) { ops.activate(s, Activation::silu, gate.here(), up.here(), wanted.here()); });
        gate.upload(bench.stream());
        up.upload(bench.stream());
        BenchMatrix& result = alias == 0 ? out : alias == 1 ? gate : up;
        bench.ops().activate(bench.stream(), Activation::silu, gate.there(), up.there(), result.there());
        result.download(bench.stream());
        for (int64_t r = 0; r < rows; r++) {
          for (int64_t i = 0; i < cols; i++) {
            ASSERT_NEAR(result.row(r)[i], wanted.row(r)[i], 8 * kRounding * std::abs(wanted.row(r)[i]))
                << r << ", " << i;
          }
        }
      }
    }
  }
}

TEST_P(OpGridRows, SwigluAtTheEndsOfTheRange) {
  SPILLWAY_REQUIRE_OP(activate);
  OpBench bench(GetParam());
  const float inputs[] = {0.0f,   -0.0f,   1e-30f,   20.0f, -20.0f, 87.0f,    -87.0f,
                          -88.5f, 1000.0f, -1000.0f, 3e38f, -3e38f, kInfinity};
  const auto count = static_cast<int64_t>(std::size(inputs));
  BenchMatrix gate(bench.device(), DType::f32, 1, count + 1);
  BenchMatrix up(bench.device(), DType::f32, 1, count + 1);
  BenchMatrix out(bench.device(), DType::f32, 1, count + 1);
  for (int64_t i = 0; i <= count; i++) {
    gate.row(0)[i] = i < count ? inputs[i] : std::numeric_limits<float>::quiet_NaN();
    up.row(0)[i] = 1.0f;
  }
  gate.upload(bench.stream());
  up.upload(bench.stream());
  bench.ops().activate(bench.stream(), Activation::silu, gate.there(), up.there(), out.there());
  out.download(bench.stream());
  for (int64_t i = 0; i < count; i++) {
    const double x = inputs[i];
    const double wanted = x / (1.0 + std::exp(-x));
    const double got = out.row(0)[i];
    const double slack = std::abs(wanted) < 1e-36 ? 1e-36 : 8 * kRounding * std::abs(wanted);  // or zero, at the bottom
    if (std::isinf(wanted)) {
      EXPECT_EQ(got, wanted);
    } else {
      EXPECT_NEAR(got, wanted, slack) << x;
    }
  }
  EXPECT_TRUE(std::isnan(out.row(0)[count]));
}

// Pages filled with a mark: what should be written is, and nothing else.
TEST_P(OpGridRows, AppendWritesTheRowsAndNothingElse) {
  SPILLWAY_REQUIRE_OP(append);
  OpBench bench(GetParam());
  for (int head_dim : {64, 80, 96, 128, 72, 10}) {
    ModelShape shape;
    shape.head_dim = head_dim;
    if (!bench.ops().why_not(shape).empty()) continue;
    for (const auto& [type, kv_heads] :
         {std::pair(DType::f16, 1), std::pair(DType::f16, 3), std::pair(DType::f32, 3)}) {
      const KvFormat format{type, kv_heads, head_dim};
      constexpr int kRows = 71;
      BenchMatrix k(bench.device(), DType::f32, kRows, int64_t{kv_heads} * head_dim, 4, 4);
      BenchMatrix v(bench.device(), DType::f32, kRows, int64_t{kv_heads} * head_dim);
      k.fill(3);
      v.fill(4, 100.0);
      v.row(2)[0] = 70000.0f;  // infinity in f16
      v.row(3)[1] = 1e-7f;     // subnormal there
      v.row(4)[0] = 2049.0f;   // a tie, to even
      v.row(5)[0] = -kInfinity;
      BenchBytes pages(bench.device(), 3 * format.row_of_pages_bytes());
      BenchBytes wanted(bench.device(), pages.size());
      std::memset(pages.here(), 0xa5, pages.size());
      std::memset(wanted.here(), 0xa5, wanted.size());
      const auto runs = [&](std::byte* base) {
        return std::vector<AppendRun>{{base, 60, 0, 4},
                                      {base + format.row_of_pages_bytes(), 0, 4, 64},
                                      {base + 2 * format.row_of_pages_bytes(), 7, 70, 1},
                                      {base, 0, 3, 0}};
      };
      bench.reference([&](Ops& ops, Stream& s) { ops.append(s, k.here(), v.here(), format, runs(wanted.here())); });
      k.upload(bench.stream());
      v.upload(bench.stream());
      pages.upload(bench.stream());
      bench.ops().append(bench.stream(), k.there(), v.there(), format, runs(pages.there()));
      pages.download(bench.stream());
      ASSERT_EQ(std::memcmp(pages.here(), wanted.here(), pages.size()), 0) << head_dim << " x " << kv_heads;
    }
  }
}

TEST_P(OpGridRows, CandidatesAreTheReferences) {
  SPILLWAY_REQUIRE_OP(candidates);
  OpBench bench(GetParam());
  const std::vector<int32_t> penalised = {0, 5, 1099};
  for (const LogitRow kind : kLogitRows) {
    for (const Lie& lie : kLies) {
      for (int64_t rows : {0, 1, 3}) {
        for (int k : {1, 40, 1000}) {
          BenchMatrix logits(bench.device(), DType::f32, rows, 1100, lie.offset, lie.gap);
          BenchMatrix out(bench.device(), DType::f32, rows, candidate_floats(k));
          BenchMatrix wanted(bench.device(), DType::f32, rows, candidate_floats(k));
          for (int64_t r = 0; r < rows; r++) fill_logits(kind, static_cast<uint64_t>(r), 1100, logits.row(r));
          logits.upload(bench.stream());
          const CandidateChoice choice{.k = k, .penalised = penalised, .penalty = 1.25f};
          bench.reference([&](Ops& ops, Stream& s) { ops.candidates(s, logits.here(), choice, wanted.here()); });
          bench.ops().candidates(bench.stream(), logits.there(), choice, out.there());
          out.download(bench.stream());
          for (int64_t r = 0; r < rows; r++) {
            SCOPED_TRACE(testing::Message() << "row " << static_cast<int>(kind) << ", k " << k);
            expect_same_candidates(out.row(r), wanted.row(r), k);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridRows);

}  // namespace
}  // namespace spillway
