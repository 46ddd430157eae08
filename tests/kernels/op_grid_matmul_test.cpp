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

// k, or the next multiple of the type's block.
int64_t whole_blocks(DType type, int64_t k) {
  const int64_t block = info(type).block_elements;
  return (k + block - 1) / block * block;
}

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

// m, where element i of the block is d * q + m.
template <typename Block>
double offset_in(const Block& block, int i) {
  if constexpr (requires { block.m; }) return f16_to_f32(block.m);
  if constexpr (requires { block.dmin; }) {
    const double dmin = f16_to_f32(block.dmin);
    if constexpr (sizeof block.scales == 16) return -dmin * (block.scales[i / 16] >> 4);
    return -dmin * scale_offset(block.scales, i / 32).offset;
  }
  return 0.0;
}

// |d * q| + |m|, which rounding goes by, where the element is d * q + m.
double magnitude(DType type, const std::byte* row, int64_t i) {
  const auto value = static_cast<double>(element(type, row, i));
  if (!is_quantised(type)) return std::abs(value);
  const double offset = with_block_type(type, [&]<typename Block>(Block) {
    return offset_in(reinterpret_cast<const Block*>(row)[i / Block::kElements], static_cast<int>(i % Block::kElements));
  });
  return std::abs(value - offset) + std::abs(offset);
}

// Multiply-adds that a block of 32 gives to a sum: one for each scale, and one for each offset.
double terms_of_32(DType type) { return type == DType::q2_k ? 4 : 2; }

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
  const bool as_int8 = is_quantised(type) && backend.quantises_activations;
  const MatmulPart part{weight.there(), out.there(), c.add};
  const BenchMatrix* first = &out;
  std::vector<std::vector<float>> residual;
  for (int64_t r = 0; r < c.m; r++) residual.emplace_back(first->row(r), first->row(r) + c.n);
  bench.ops().matmul(bench.stream(), x.there(), {&part, 1});
  out.download(bench.stream());
  // One rounding for each term of a partial sum (two where the product is rounded on its own), some for the folds.
  const double terms = as_int8 ? terms_of_32(type) * static_cast<double>(c.k) / 32 : static_cast<double>(c.k) / 16;
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
  OpBench bench(GetParam(), shape_for(768), 70);
  for (DType type : kWeightTypes) {
    for (const Case& c :
         {Case{1, 16, 32}, Case{1, 1, 64}, Case{1, 77, 192, 2, 2}, Case{2, 33, 160, 6}, Case{8, 40, 96, 0, 4, true},
          Case{9, 17, 64, 2, 0, true}, Case{12, 64, 224}, Case{13, 15, 288, 4, 6}, Case{70, 130, 96, 2},
          Case{25, 3, 640, 0, 0, true}, Case{1, 0, 64}, Case{0, 16, 64}}) {
      Case aligned = c;
      aligned.k = whole_blocks(type, c.k);
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

// A block of this byte, but for scales of 1.
template <typename Block>
Block block_of(int byte) {
  Block block;
  std::memset(&block, byte, sizeof block);
  block.d = f32_to_f16(1.0f);
  if constexpr (requires { block.m; }) block.m = block.d;
  if constexpr (requires { block.dmin; }) block.dmin = block.d;
  return block;
}

void check_extreme(OpBench& bench, DType type, int byte, int64_t m) {
  const int64_t k = whole_blocks(type, 64);
  BenchMatrix x(bench.device(), DType::f32, m, k);
  BenchMatrix weight(bench.device(), type, 20, k);
  BenchMatrix out(bench.device(), DType::f32, m, 20);
  for (int64_t r = 0; r < m; r++) {
    for (int i = 0; i < k; i++) x.row(r)[i] = r % 2 == 0 ? -127.0f : 127.0f;  // codes of the same value, scale 1
  }
  for (int64_t n = 0; n < 20; n++) {
    with_block_type(type, [&]<typename Block>(Block) {
      auto* blocks = reinterpret_cast<Block*>(weight.here().row(n));
      std::fill_n(blocks, k / Block::kElements, block_of<Block>(byte));
    });
  }
  x.upload(bench.stream());
  weight.upload(bench.stream());
  const MatmulPart part{weight.there(), out.there(), false};
  bench.ops().matmul(bench.stream(), x.there(), {&part, 1});
  out.download(bench.stream());
  for (int64_t r = 0; r < m; r++) {
    for (int64_t n = 0; n < 20; n++) {
      double exact = 0.0;
      for (int i = 0; i < k; i++) exact += static_cast<double>(x.row(r)[i]) * element(type, weight.here().row(n), i);
      ASSERT_EQ(out.row(r)[n], exact) << info(type).name << " " << byte << ": " << r << ", " << n;
    }
  }
}

// The least and largest codes in every place: sums that would not fit 16 bits, or a signed product.
TEST_P(OpGridMatmul, MatmulOfExtremeCodesIsExact) {
  SPILLWAY_REQUIRE_OP(matmul);
  if (!GetParam().quantises_activations) GTEST_SKIP() << "activations are not quantised";
  OpBench bench(GetParam(), shape_for(256), 13);
  for (DType type : kQuantisedTypes) {
    for (int byte : {0x80, 0x7f, 0x00, 0xff, 0x81}) {
      for (int64_t m : {1, 13}) check_extreme(bench, type, byte, m);
    }
  }
}

TEST_P(OpGridMatmul, MatmulKeepsWhatIsNotFinite) {
  SPILLWAY_REQUIRE_OP(matmul);
  OpBench bench(GetParam(), shape_for(256), 3);
  for (DType type : kWeightTypes) {
    const int64_t k = whole_blocks(type, 96);
    BenchMatrix x(bench.device(), DType::f32, 3, k);
    BenchMatrix weight(bench.device(), type, 18, k);
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
  OpBench bench(GetParam(), shape_for(256), kMostRows);
  for (DType type : kWeightTypes) {
    const int64_t k = is_quantised(type) ? whole_blocks(type, 160) : 139;
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
  constexpr DType kFour[] = {DType::q4_1, DType::f16, DType::q6_k, DType::q4_k};
  for (int64_t rows : {1, 5, 70}) {
    std::vector<std::vector<float>> results;
    for (int threads : {1, 2, 3}) {
      OpBench bench(GetParam(), shape_for(256), kMostRows, threads);
      BenchMatrix x(bench.device(), DType::f32, rows, 256);
      x.fill(8);
      x.upload(bench.stream());
      auto together = weights_of(bench, {kFour[0], kFour[1], kFour[2], kFour[3]}, 256);
      results.push_back(product(bench, x, together, 0, rows));
      for (int part = 0; part < 4; part++) {
        auto alone = weights_of(bench, {kFour[part]}, 256);
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

// One part after the other by matmul and matmul_more, whatever the ones before left in the scratch; then another x.
TEST_P(OpGridMatmul, MatmulMoreGivesTheBitsOfMatmul) {
  SPILLWAY_REQUIRE_OP(matmul);
  OpBench bench(GetParam(), shape_for(256), kMostRows);
  auto weights = weights_of(bench, {DType::f32, DType::q4_0, DType::q8_0, DType::f16, DType::q6_k, DType::q4_0}, 256);
  for (int64_t rows : {1, 5, 13}) {
    for (int seed : {8, 9}) {
      BenchMatrix x(bench.device(), DType::f32, rows, 256);
      x.fill(seed);
      x.upload(bench.stream());
      for (size_t i = 0; i < weights.size(); i++) {
        BenchMatrix out(bench.device(), DType::f32, rows, kOutputs), wanted(bench.device(), DType::f32, rows, kOutputs);
        const auto run = [&](size_t part, const View& to, bool more) {
          const MatmulPart one{weights[part]->there(), to, false};
          if (more) return bench.ops().matmul_more(bench.stream(), x.there(), {&one, 1});
          bench.ops().matmul(bench.stream(), x.there(), {&one, 1});
        };
        for (size_t part = 0; part <= i; part++) run(part, out.there(), part > 0);
        run(i, wanted.there(), false);
        out.download(bench.stream());
        wanted.download(bench.stream());
        for (int64_t r = 0; r < rows; r++) {
          ASSERT_EQ(std::memcmp(out.row(r), wanted.row(r), kOutputs * sizeof(float)), 0) << rows << " rows, part " << i;
        }
      }
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridMatmul);

}  // namespace
}  // namespace spillway
