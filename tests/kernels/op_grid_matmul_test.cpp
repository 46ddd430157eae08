// BenchMatrix products, on every backend: against the reference, against exact arithmetic on quantised activations, and
// to the bit against themselves in other company.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/dequantize.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridMatmul : public OpGrid {};

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1};

bool quantised(DType type) { return info(type).block_elements > 1; }

ModelShape shape_for(int64_t k) {
  ModelShape shape;
  shape.hidden = static_cast<int>(k);
  return shape;
}

// What blocks of 32 activations become: codes of round(x * 127 / largest), times largest / 127.
struct Activations {
  std::vector<double> values;
  std::vector<double> error;  // at most, of each
};

Activations activations(const float* x, int64_t k, bool as_int8) {
  Activations a;
  for (int64_t first = 0; first < k; first += 32) {
    const int64_t end = std::min(k, first + 32);
    float largest = 0.0f;
    for (int64_t i = first; i < end; i++) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / 127.0f;
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (int64_t i = first; i < end; i++) {
      a.values.push_back(as_int8 ? std::nearbyint(x[i] * inverse) * static_cast<double>(scale) : x[i]);
      a.error.push_back(as_int8 ? 0.501 * scale : 0.0);
    }
  }
  return a;
}

// |d * q| + |m|, which rounding goes by, where the element is d * q + m.
double magnitude(DType type, const std::byte* row, int64_t i) {
  if (type != DType::q4_1) return std::abs(static_cast<double>(element(type, row, i)));
  const auto& block = reinterpret_cast<const BlockQ4_1*>(row)[i / 32];
  return std::abs(static_cast<double>(f16_to_f32(block.d)) * nibble(block.qs, static_cast<int>(i % 32))) +
         std::abs(static_cast<double>(f16_to_f32(block.m)));
}

struct Case {
  int64_t m, n, k;
  uint64_t offset = 0;  // bytes, of the weight; rows of all matrices lie apart where gap > 0
  uint64_t gap = 0;
  bool add = false;
};

void check_case(const Backend& backend, OpBench& bench, DType type, const Case& c) {
  SCOPED_TRACE(testing::Message() << info(type).name << " m " << c.m << " n " << c.n << " k " << c.k << " at "
                                  << c.offset);
  BenchMatrix x(bench.device(), DType::f32, c.m, c.k, 0, c.gap * 2);
  BenchMatrix weight(bench.device(), type, c.n, c.k, c.offset, c.gap);
  BenchMatrix out(bench.device(), DType::f32, c.m, c.n, 0, c.gap * 2);
  BenchMatrix wanted(bench.device(), DType::f32, c.m, c.n);
  x.fill(1);
  weight.fill(2, 0.1);
  out.fill(3);
  for (int64_t r = 0; r < c.m; r++) {  // outliers where an index could slip
    x.row(r)[c.k - 1] = 9.0f;
    x.row(r)[r % c.k] *= 20.0f;
    std::copy_n(out.row(r), c.n, wanted.row(r));
  }
  const MatmulPart on_reference{weight.here(), wanted.here(), c.add};
  bench.reference([&](Ops& ops, Stream& s) { ops.matmul(s, x.here(), {&on_reference, 1}); });
  x.upload(bench.stream());
  weight.upload(bench.stream());
  out.upload(bench.stream());
  std::vector<float> before(c.n);
  const bool as_int8 = quantised(type) && backend.quantises_activations;
  const MatmulPart part{weight.there(), out.there(), c.add};
  const BenchMatrix* first = &out;
  std::vector<std::vector<float>> residual;
  for (int64_t r = 0; r < c.m; r++) residual.emplace_back(first->row(r), first->row(r) + c.n);
  bench.ops().matmul(bench.stream(), x.there(), {&part, 1});
  out.download(bench.stream());
  // One rounding for each term of a partial sum (two where the product is rounded on its own), some for the folds.
  const double terms = as_int8 ? 2.0 * static_cast<double>(c.k) / 32 : static_cast<double>(c.k) / 16;
  const double roundings = (backend.fused ? 1 : 2) * terms + 8;
  for (int64_t r = 0; r < c.m; r++) {
    const Activations a = activations(x.row(r), c.k, as_int8);
    for (int64_t n = 0; n < c.n; n++) {
      double exact = c.add ? residual[r][n] : 0.0;
      double sizes = std::abs(exact);
      double activation_error = 0.0;
      for (int64_t i = 0; i < c.k; i++) {
        const double w = element(type, weight.here().row(n), i);
        exact += w * a.values[i];
        sizes += magnitude(type, weight.here().row(n), i) * std::abs(a.values[i]);
        activation_error += std::abs(w) * a.error[i];
      }
      const double rounding = roundings * kRounding * sizes;
      ASSERT_NEAR(out.row(r)[n], exact, rounding) << r << ", " << n;
      ASSERT_NEAR(out.row(r)[n], wanted.row(r)[n], rounding + activation_error) << r << ", " << n;
    }
  }
}

TEST_P(OpGridMatmul, MatmulIsWithinRounding) {
  SPILLWAY_REQUIRE_OP(matmul);
  OpBench bench(GetParam(), shape_for(640), 70);
  for (DType type : kTypes) {
    for (const Case& c :
         {Case{1, 16, 32}, Case{1, 1, 64}, Case{1, 77, 192, 2, 2}, Case{2, 33, 160, 6}, Case{8, 40, 96, 0, 4, true},
          Case{9, 17, 64, 2, 0, true}, Case{12, 64, 224}, Case{13, 15, 288, 4, 6}, Case{70, 130, 96, 2},
          Case{25, 3, 640, 0, 0, true}, Case{1, 0, 64}, Case{0, 16, 64}}) {
      Case aligned = c;
      if (type == DType::f32) aligned.offset *= 2, aligned.gap *= 2;  // whole elements
      check_case(GetParam(), bench, type, aligned);
    }
  }
  for (DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (int64_t k : {1, 7, 15, 17, 31, 33, 100}) {
      check_case(GetParam(), bench, type, {1, 9, k});
      check_case(GetParam(), bench, type, {6, 5, k, 4, 4});
    }
  }
}

// The least and largest codes in every place: sums that would not fit 16 bits, or a signed product.
TEST_P(OpGridMatmul, MatmulOfExtremeCodesIsExact) {
  SPILLWAY_REQUIRE_OP(matmul);
  if (!GetParam().quantises_activations) GTEST_SKIP() << "activations are not quantised";
  OpBench bench(GetParam(), shape_for(64), 13);
  for (DType type : {DType::q8_0, DType::q4_0, DType::q4_1}) {
    for (int byte : {0x80, 0x7f, 0x00, 0xff, 0x81}) {
      for (int64_t m : {1, 13}) {
        BenchMatrix x(bench.device(), DType::f32, m, 64);
        BenchMatrix weight(bench.device(), type, 20, 64);
        BenchMatrix out(bench.device(), DType::f32, m, 20);
        for (int64_t r = 0; r < m; r++) {
          for (int i = 0; i < 64; i++) x.row(r)[i] = r % 2 == 0 ? -127.0f : 127.0f;  // codes of the same value, scale 1
        }
        for (int64_t n = 0; n < 20; n++) {
          for (int b = 0; b < 2; b++) {
            std::byte* block = weight.here().row(n) + b * info(type).block_bytes;
            std::memset(block, byte, info(type).block_bytes);
            const uint16_t one = f32_to_f16(1.0f);
            std::memcpy(block, &one, sizeof one);
            if (type == DType::q4_1) std::memcpy(block + 2, &one, sizeof one);
          }
        }
        x.upload(bench.stream());
        weight.upload(bench.stream());
        const MatmulPart part{weight.there(), out.there(), false};
        bench.ops().matmul(bench.stream(), x.there(), {&part, 1});
        out.download(bench.stream());
        for (int64_t r = 0; r < m; r++) {
          for (int64_t n = 0; n < 20; n++) {
            double exact = 0.0;
            for (int i = 0; i < 64; i++)
              exact += static_cast<double>(x.row(r)[i]) * element(type, weight.here().row(n), i);
            ASSERT_EQ(out.row(r)[n], exact) << info(type).name << " " << byte << ": " << r << ", " << n;
          }
        }
      }
    }
  }
}

TEST_P(OpGridMatmul, MatmulKeepsWhatIsNotFinite) {
  SPILLWAY_REQUIRE_OP(matmul);
  OpBench bench(GetParam(), shape_for(96), 3);
  for (DType type : kTypes) {
    BenchMatrix x(bench.device(), DType::f32, 3, 96);
    BenchMatrix weight(bench.device(), type, 18, 96);
    BenchMatrix out(bench.device(), DType::f32, 3, 18);
    x.fill(1);
    weight.fill(2);
    x.row(0)[40] = std::numeric_limits<float>::quiet_NaN();
    x.row(2)[95] = std::numeric_limits<float>::infinity();
    x.upload(bench.stream());
    weight.upload(bench.stream());
    const MatmulPart part{weight.there(), out.there(), false};
    bench.ops().matmul(bench.stream(), x.there(), {&part, 1});
    out.download(bench.stream());
    for (int n = 0; n < 18; n++) {
      EXPECT_TRUE(std::isnan(out.row(0)[n])) << info(type).name;
      EXPECT_TRUE(std::isfinite(out.row(1)[n])) << info(type).name;
      EXPECT_FALSE(std::isfinite(out.row(2)[n])) << info(type).name;
    }
  }
}

// ---- a row's result never depends on its company

constexpr int64_t kMostRows = 70;
constexpr int64_t kOutputs = 77;

// Rows [first, first + count) of x through `types`, all parts in one call; the parts' outputs side by side.
std::vector<float> product(OpBench& bench, BenchMatrix& x, std::vector<std::unique_ptr<BenchMatrix>>& weights,
                           int64_t first, int64_t count) {
  std::vector<std::unique_ptr<BenchMatrix>> outs;
  std::vector<MatmulPart> parts;
  for (auto& weight : weights) {
    outs.push_back(std::make_unique<BenchMatrix>(bench.device(), DType::f32, count, kOutputs));
    parts.push_back({weight->there(), outs.back()->there(), false});
  }
  bench.ops().matmul(bench.stream(), x.there().slice_rows(first, count), parts);
  std::vector<float> all;
  for (int64_t r = 0; r < count; r++) {
    for (auto& out : outs) {
      if (r == 0) out->download(bench.stream());
      all.insert(all.end(), out->row(r), out->row(r) + kOutputs);
    }
  }
  return all;
}

std::vector<std::unique_ptr<BenchMatrix>> weights_of(OpBench& bench, std::initializer_list<DType> types, int64_t k) {
  std::vector<std::unique_ptr<BenchMatrix>> weights;
  for (DType type : types) {
    weights.push_back(std::make_unique<BenchMatrix>(bench.device(), type, kOutputs, k));
    weights.back()->fill(static_cast<uint64_t>(type) + 5);
    weights.back()->upload(bench.stream());
  }
  return weights;
}

TEST_P(OpGridMatmul, MatmulRowsDoNotDependOnTheBatch) {
  SPILLWAY_REQUIRE_OP(matmul);
  OpBench bench(GetParam(), shape_for(160), kMostRows);
  for (DType type : kTypes) {
    const int64_t k = quantised(type) ? 160 : 139;
    BenchMatrix x(bench.device(), DType::f32, kMostRows, k);
    x.fill(8);
    x.upload(bench.stream());
    auto weights = weights_of(bench, {type}, k);
    const int64_t few = bench.ops().few_rows();
    const std::vector<float> all = product(bench, x, weights, 0, kMostRows);
    std::vector<float> alone;
    for (int64_t row = 0; row < (few > 0 ? kMostRows : 0); row++) {
      const std::vector<float> one = product(bench, x, weights, row, 1);
      alone.insert(alone.end(), one.begin(), one.end());
    }
    for (int64_t count = 1; count < kMostRows; count += GetParam().emulated && count > 9 ? 15 : 1) {
      for (int64_t first : {int64_t{0}, kMostRows - count}) {
        const std::vector<float> some = product(bench, x, weights, first, count);
        const std::vector<float>& wanted = count <= few ? alone : all;
        ASSERT_EQ(std::memcmp(some.data(), wanted.data() + first * kOutputs, some.size() * sizeof(float)), 0)
            << info(type).name << ": " << count << " rows from " << first;
      }
    }
  }
}

TEST_P(OpGridMatmul, MatmulPartsDoNotDependOnEachOtherNorOnThreads) {
  SPILLWAY_REQUIRE_OP(matmul);
  constexpr DType kFour[] = {DType::q4_1, DType::f16, DType::q8_0, DType::q4_0};
  for (int64_t rows : {1, 5, 70}) {
    std::vector<std::vector<float>> results;
    for (int threads : {1, 2, 3}) {
      OpBench bench(GetParam(), shape_for(160), kMostRows, threads);
      BenchMatrix x(bench.device(), DType::f32, rows, 160);
      x.fill(8);
      x.upload(bench.stream());
      auto together = weights_of(bench, {kFour[0], kFour[1], kFour[2], kFour[3]}, 160);
      results.push_back(product(bench, x, together, 0, rows));
      for (int part = 0; part < 4; part++) {
        auto alone = weights_of(bench, {kFour[part]}, 160);
        const std::vector<float> result = product(bench, x, alone, 0, rows);
        for (int64_t r = 0; r < rows; r++) {
          ASSERT_EQ(std::memcmp(result.data() + r * kOutputs, results.back().data() + (r * 4 + part) * kOutputs,
                                kOutputs * sizeof(float)),
                    0)
              << rows << " rows, part " << part;
        }
      }
    }
    EXPECT_TRUE(results[0] == results[1] && results[0] == results[2]) << rows << " rows";
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridMatmul);

}  // namespace
}  // namespace spillway
