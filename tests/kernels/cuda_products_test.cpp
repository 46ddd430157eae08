// Products of matrices by the CUDA kernels, run by the emulation, against the reference in double: the matrix-vector
// kernels for a few rows of x, and the tiles on tensor cores for many.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/cuda_emulated.h"

namespace spillway {
namespace {

constexpr std::array kFloats = {DType::f32, DType::f16, DType::bf16};

// x as the kernels see it: codes of 8 bits, one scale to 32 elements.
void quantize_like_the_kernels(const View& x, const View& out) {
  for (int64_t r = 0; r < x.rows; r++) {
    for (int64_t block = 0; block < x.cols; block += kBlockElements) {
      const float* values = x.f32(r) + block;
      float largest = 0.0f;
      for (int i = 0; i < kBlockElements; i++) largest = std::max(largest, std::abs(values[i]));
      const float scale = largest / 127.0f;
      for (int i = 0; i < kBlockElements; i++) {
        out.f32(r)[block + i] = scale == 0.0f ? 0.0f : scale * std::nearbyint(values[i] * (1.0f / scale));
      }
    }
  }
}

// k, or the next multiple of the type's block.
int64_t whole_blocks(DType type, int64_t k) {
  const int64_t block = info(type).block_elements;
  return (k + block - 1) / block * block;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

using Product = CudaProblem (*)(CudaStream, const CudaMatvec*);

class CudaProducts : public CudaEmulated {
 protected:
  explicit CudaProducts(Product product) : product_(product) {}

  // Parts that share x, in one call.
  void multiply(const DeviceMatrix& x, const std::vector<MatmulPart>& parts) {
    DeviceBytes scratch(table_, cuda_matvec_scratch_bytes(x.host().rows, x.host().cols));
    const CudaMatvec arguments = {.x = x.device(),
                                  .parts = parts.data(),
                                  .parts_count = static_cast<int32_t>(parts.size()),
                                  .scratch = scratch.device(),
                                  .scratch_bytes = scratch.bytes()};
    expect_fine(product_(stream_, &arguments));
    expect_fine(table_.synchronize(stream_));
  }

  struct Case {
    DType type;
    int64_t m, n, k;
    bool add = false;
    Placing weight = {};
    Placing x = {};
    Placing out = {};
  };

  void compare(Case c) {
    c.k = whole_blocks(c.type, c.k);
    SCOPED_TRACE(testing::Message() << info(c.type).name << ", m " << c.m << ", n " << c.n << ", k " << c.k
                                    << ", weight at " << c.weight.offset << " + " << c.weight.gap);
    DeviceMatrix x = matrix(DType::f32, c.m, c.k, c.x);
    DeviceMatrix weight = matrix(c.type, c.n, c.k, c.weight);
    DeviceMatrix out = matrix(DType::f32, c.m, c.n, c.out);
    DeviceMatrix seen = matrix(DType::f32, c.m, c.k), exact = matrix(DType::f32, c.m, c.n);
    DeviceMatrix unquantized = matrix(DType::f32, c.m, c.n);
    x.fill(c.k).upload(stream_);
    weight.fill(c.n, 0.1).upload(stream_);
    out.fill(7).upload(stream_);
    for (int64_t r = 0; r < c.m; r++) {
      std::copy_n(out.host().f32(r), c.n, exact.host().f32(r));
      std::copy_n(out.host().f32(r), c.n, unquantized.host().f32(r));
      std::copy_n(x.host().f32(r), c.k, seen.host().f32(r));
    }
    if (is_quantised(c.type)) quantize_like_the_kernels(x.host(), seen.host());
    reference_->ops().matmul(*reference_stream_, seen.host(), {{MatmulPart{weight.host(), exact.host(), c.add}}});
    reference_->ops().matmul(*reference_stream_, x.host(), {{MatmulPart{weight.host(), unquantized.host(), c.add}}});
    reference_stream_->synchronize();
    multiply(x, {{weight.device(), out.device(), c.add}});
    out.download(stream_);
    for (int64_t r = 0; r < c.m; r++) {
      for (int64_t n = 0; n < c.n; n++) {
        double magnitude = std::abs(exact.at(r, n)) + 1e-30;
        for (int64_t k = 0; k < c.k; k++) magnitude += std::abs(static_cast<double>(weight.at(n, k)) * x.at(r, k));
        ASSERT_NEAR(out.at(r, n), exact.at(r, n), 2 * kEps * magnitude) << r << ", " << n;
        ASSERT_NEAR(out.at(r, n), unquantized.at(r, n), 0.005 * magnitude) << r << ", " << n;
      }
    }
  }

  // Rows [first, first + rows) of x with one weight, row after row.
  std::vector<float> product_of(const DeviceMatrix& x, int64_t first, int64_t rows, const View& weight) {
    DeviceMatrix some = matrix(DType::f32, rows, x.host().cols, {.offset = 4}),
                 out = matrix(DType::f32, rows, weight.rows);
    for (int64_t r = 0; r < rows; r++) std::copy_n(x.host().f32(first + r), x.host().cols, some.host().f32(r));
    some.upload(stream_);
    multiply(some, {{weight, out.device()}});
    out.download(stream_);
    std::vector<float> values;
    for (int64_t r = 0; r < rows; r++) values.insert(values.end(), out.host().f32(r), out.host().f32(r) + weight.rows);
    return values;
  }

 private:
  Product product_;
};

class CudaMatvecTest : public CudaProducts {
 protected:
  CudaMatvecTest() : CudaProducts(table_under_test().matvec) {}
};
class CudaMatmulTest : public CudaProducts {
 protected:
  CudaMatmulTest() : CudaProducts(table_under_test().matmul) {}
};

// ---- a few rows of x

TEST_F(CudaMatvecTest, QuantizedWeightsMatchTheReference) {
  for (const DType type : kQuantisedTypes) {
    for (const int64_t k : {32, 64, 576, 1056, 2112, 4160}) compare({.type = type, .m = 1, .n = 5, .k = k});
    for (const int64_t m : {0, 2, 3, 5, 9}) compare({.type = type, .m = m, .n = 3, .k = 1088, .add = m % 2 == 1});
    for (const int64_t n : {0, 1, 17, 35}) compare({.type = type, .m = 1, .n = n, .k = 96, .add = true});
    compare({.type = type, .m = 1, .n = 3, .k = 0});
  }
}

TEST_F(CudaMatvecTest, QuantizedWeightsMayLieAtAnyEvenAddress) {
  for (const DType type : kQuantisedTypes) {
    for (uint64_t offset = 0; offset < 16; offset += 2) {
      compare({.type = type, .m = 1, .n = 6, .k = 1056, .weight = {.offset = offset}});
      compare({.type = type, .m = 2, .n = 3, .k = 64, .weight = {.offset = 2, .gap = offset}});
    }
    compare({.type = type, .m = 2, .n = 3, .k = 128, .x = {.offset = 4, .gap = 8}, .out = {.offset = 4, .gap = 4}});
  }
}

TEST_F(CudaMatvecTest, FloatWeightsMatchTheReference) {
  for (const DType type : kFloats) {
    for (const int64_t k : {0, 1, 7, 64, 259, 1100, 2300}) compare({.type = type, .m = 1, .n = 5, .k = k});
    for (const int64_t m : {2, 3, 9}) compare({.type = type, .m = m, .n = 18, .k = 530, .add = m % 2 == 1});
    const uint64_t element = info(type).block_bytes;
    for (const uint64_t step : {1, 3}) {
      compare({.type = type, .m = 2, .n = 3, .k = 600, .weight = {.offset = step * element, .gap = element}});
    }
    compare({.type = type, .m = 3, .n = 3, .k = 130, .x = {.offset = 4, .gap = 8}, .out = {.offset = 12, .gap = 4}});
  }
}

TEST_F(CudaMatvecTest, ARowDependsOnNothingElse) {
  for (const DType type : kWeightTypes) {
    SCOPED_TRACE(info(type).name);
    constexpr int kRows = 9, kOut = 7;
    const int64_t cols = whole_blocks(type, 2112);
    DeviceMatrix x = matrix(DType::f32, kRows, cols), other = matrix(DType::bf16, 5, cols);
    DeviceMatrix weight = matrix(type, kOut, cols),
                 moved = matrix(type, kOut, cols, type == DType::f32 ? Placing{4, 12} : Placing{14, 6});

    DeviceMatrix together = matrix(DType::f32, kRows, kOut), second = matrix(DType::f32, kRows, kOut);
    DeviceMatrix beside = matrix(DType::f32, kRows, 5);
    x.fill(1).upload(stream_);
    other.fill(2).upload(stream_);
    weight.fill(3).upload(stream_);
    moved.fill(3).upload(stream_);
    multiply(
        x,
        {{other.device(), beside.device()}, {weight.device(), together.device()}, {moved.device(), second.device()}});
    together.download(stream_);
    second.download(stream_);
    EXPECT_TRUE(same_bits(together, 0, second, 0, kRows)) << "two places in memory";
    for (const int count : {1, 2, 4}) {
      const int row = kRows - count;
      DeviceMatrix some = matrix(DType::f32, count, cols, {.offset = 4}), alone = matrix(DType::f32, count, kOut);
      for (int r = 0; r < count; r++) std::copy_n(x.host().f32(row + r), cols, some.host().f32(r));
      some.upload(stream_);
      multiply(some, {{weight.device(), alone.device()}});
      alone.download(stream_);
      EXPECT_TRUE(same_bits(together, row, alone, 0, count)) << count << " rows alone";
    }
  }
}

TEST_F(CudaMatvecTest, KeepsWhatIsNotANumber) {
  for (const DType type : {DType::q4_0, DType::f16}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      DeviceMatrix x = matrix(DType::f32, 1, 64), weight = matrix(type, 2, 64), out = matrix(DType::f32, 1, 2);
      x.fill(1);
      x.host().f32()[40] = value;
      x.upload(stream_);
      weight.fill(2).upload(stream_);
      multiply(x, {{weight.device(), out.device()}});
      out.download(stream_);
      EXPECT_FALSE(std::isfinite(out.at(0, 0)));
      EXPECT_FALSE(std::isfinite(out.at(0, 1)));
    }
  }
}

// ---- many rows of x

TEST_F(CudaMatmulTest, QuantizedWeightsMatchTheReference) {
  for (const DType type : kQuantisedTypes) {
    for (const int64_t k : {0, 32, 64, 96, 608}) compare({.type = type, .m = 9, .n = 5, .k = k});
    for (const int64_t m : {0, 1, 17, 33, 65, 130})
      compare({.type = type, .m = m, .n = 19, .k = 160, .add = m % 2 == 1});
    for (const int64_t n : {0, 1, 32, 129}) compare({.type = type, .m = 70, .n = n, .k = 96, .add = true});
    compare({.type = type, .m = 9, .n = 3, .k = 4160});
  }
}

TEST_F(CudaMatmulTest, QuantizedWeightsMayLieAtAnyEvenAddress) {
  for (const DType type : kQuantisedTypes) {
    for (uint64_t offset = 0; offset < 16; offset += 2) {
      compare({.type = type, .m = 10, .n = 35, .k = 160, .weight = {.offset = offset}});
      compare({.type = type, .m = 9, .n = 3, .k = 96, .weight = {.offset = 2, .gap = offset}});
    }
    compare({.type = type, .m = 12, .n = 3, .k = 128, .x = {.offset = 4, .gap = 8}, .out = {.offset = 4, .gap = 4}});
  }
}

TEST_F(CudaMatmulTest, FloatWeightsMatchTheReference) {
  for (const DType type : kFloats) {
    for (const int64_t k : {0, 1, 7, 33, 64, 259, 1100}) compare({.type = type, .m = 9, .n = 5, .k = k});
    for (const int64_t m : {1, 17, 33, 70, 130}) compare({.type = type, .m = m, .n = 18, .k = 84, .add = m % 2 == 1});
    for (const int64_t n : {0, 1, 32, 129}) compare({.type = type, .m = 70, .n = n, .k = 72, .add = true});
    const uint64_t element = info(type).block_bytes;
    for (const uint64_t step : {1, 3}) {
      compare({.type = type, .m = 10, .n = 35, .k = 100, .weight = {.offset = step * element, .gap = element}});
    }
    compare({.type = type, .m = 11, .n = 3, .k = 130, .x = {.offset = 4, .gap = 8}, .out = {.offset = 12, .gap = 4}});
  }
}

// Rows of x whose elements are far larger or smaller than a half can be.
TEST_F(CudaMatmulTest, HalvesTakeActivationsOfAnySize) {
  constexpr int kCols = 96;
  DeviceMatrix x = matrix(DType::f32, 9, kCols), weight = matrix(DType::f16, 4, kCols), out = matrix(DType::f32, 9, 4);
  x.fill(1);
  for (int r = 0; r < 9; r++) {
    for (int c = 0; c < kCols; c++) x.host().f32(r)[c] *= std::pow(10.0f, static_cast<float>(8 * (r - 4)));
  }
  for (int c = 0; c < kCols; c++) x.host().f32(3)[c] = 0.0f;
  x.upload(stream_);
  weight.fill(2).upload(stream_);
  multiply(x, {{weight.device(), out.device()}});
  out.download(stream_);
  for (int r = 0; r < 9; r++) {
    for (int n = 0; n < 4; n++) {
      double exact = 0.0, magnitude = 1e-40;
      for (int k = 0; k < kCols; k++) {
        const double term = static_cast<double>(x.at(r, k)) * weight.at(n, k);
        exact += term;
        magnitude += std::abs(term);
      }
      EXPECT_NEAR(out.at(r, n), exact, 2 * kEps * magnitude) << r << ", " << n;
    }
  }
}

// Neither the number of rows nor the machine, which choose the tile, nor the cut of a matrix, nor what shares the call.
TEST_F(CudaMatmulTest, ARowDependsOnNothingElse) {
  for (const DType type : kWeightTypes) {
    SCOPED_TRACE(info(type).name);
    constexpr int kRows = 140, kOut = 50, kFirst = 23;
    const int64_t cols = is_quantised(type) ? whole_blocks(type, 160) : 139;
    DeviceMatrix x = matrix(DType::f32, kRows, cols), weight = matrix(type, kOut, cols);
    DeviceMatrix moved = matrix(type, kOut, cols, {.offset = type == DType::f32 ? 4u : 14u});
    x.fill(1).upload(stream_);
    weight.fill(3).upload(stream_);
    moved.fill(3).upload(stream_);
    emulation::set_likeness({});
    const std::vector<float> all = product_of(x, 0, kRows, weight.device());
    for (const int multiprocessors : {4, 10, 1000}) {
      emulation::set_likeness({.multiprocessors = multiprocessors});
      EXPECT_TRUE(same_bits(all, product_of(x, 0, kRows, weight.device()))) << multiprocessors << " multiprocessors";
    }
    emulation::set_likeness({});
    for (const int count : {1, 9, 17, 40, 80}) {
      const std::vector<float> last(all.end() - count * kOut, all.end());
      EXPECT_TRUE(same_bits(last, product_of(x, kRows - count, count, weight.device()))) << count << " rows";
    }
    EXPECT_TRUE(same_bits(all, product_of(x, 0, kRows, moved.device()))) << "at another address";
    const std::vector<float> cut = product_of(x, 0, 9, weight.device().slice_rows(kFirst, kOut - kFirst));
    for (int r = 0; r < 9; r++) {
      const std::vector<float> row(all.begin() + r * kOut + kFirst, all.begin() + (r + 1) * kOut);
      const auto begin = cut.begin() + r * (kOut - kFirst);
      EXPECT_TRUE(same_bits(row, {begin, begin + (kOut - kFirst)})) << "a cut of the matrix, row " << r;
    }
  }
}

TEST_F(CudaMatmulTest, PartsDependOnNothingElse) {
  constexpr int kRows = 20, kCols = 256;
  DeviceMatrix x = matrix(DType::f32, kRows, kCols);
  x.fill(1).upload(stream_);
  const std::array types = {DType::f16, DType::q8_0, DType::q6_k, DType::q4_k};
  std::vector<std::unique_ptr<DeviceMatrix>> weights, outs;
  std::vector<MatmulPart> parts;
  for (size_t p = 0; p < types.size(); p++) {
    const auto rows = static_cast<int64_t>(10 + 20 * p);
    weights.push_back(std::make_unique<DeviceMatrix>(table_, types[p], rows, kCols));
    outs.push_back(std::make_unique<DeviceMatrix>(table_, DType::f32, kRows, rows));
    weights.back()->fill(p).upload(stream_);
    parts.push_back({weights.back()->device(), outs.back()->device()});
  }
  multiply(x, parts);
  for (size_t p = 0; p < types.size(); p++) {
    outs[p]->download(stream_);
    const std::vector<float> alone = product_of(x, 0, kRows, weights[p]->device());
    const float* together = outs[p]->host().f32();
    EXPECT_TRUE(same_bits(alone, {together, together + alone.size()})) << info(types[p]).name;
  }
}

// Compute capability 7.5 has no bfloat16 product: the matrix-vector kernel takes its place.
TEST_F(CudaMatmulTest, OlderDevicesTakeAnotherWay) {
  emulation::set_likeness({.major = 7, .minor = 5});
  compare({.type = DType::bf16, .m = 20, .n = 18, .k = 84});
  compare({.type = DType::f16, .m = 20, .n = 18, .k = 84});
}

TEST_F(CudaMatmulTest, KeepsWhatIsNotANumber) {
  for (const DType type : {DType::q8_0, DType::q4_1, DType::f16, DType::bf16, DType::f32}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      DeviceMatrix x = matrix(DType::f32, 10, 64), weight = matrix(type, 2, 64), out = matrix(DType::f32, 10, 2);
      x.fill(1);
      x.host().f32(4)[40] = value;
      x.upload(stream_);
      weight.fill(2).upload(stream_);
      multiply(x, {{weight.device(), out.device()}});
      out.download(stream_);
      for (int r = 0; r < 10; r++) {
        EXPECT_EQ(std::isfinite(out.at(r, 0)), r != 4) << info(type).name << ", row " << r;
        EXPECT_EQ(std::isfinite(out.at(r, 1)), r != 4) << info(type).name << ", row " << r;
      }
    }
  }
}

TEST_F(CudaMatmulTest, UnknownTypesAreRefused) {
  DeviceMatrix x = matrix(DType::f32, 9, 32), weight = matrix(DType::i32, 2, 32), out = matrix(DType::f32, 9, 2);
  const MatmulPart part = {weight.device(), out.device()};
  const CudaMatmul arguments = {
      .x = x.device(), .parts = &part, .parts_count = 1, .scratch = nullptr, .scratch_bytes = 0};
  EXPECT_STREQ(table_.matmul(stream_, &arguments), "operation not supported");
  EXPECT_STREQ(table_.matvec(stream_, &arguments), "operation not supported");
}

}  // namespace
}  // namespace spillway
