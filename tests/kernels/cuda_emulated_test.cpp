// The CUDA kernels, run by the emulation, against the reference in double.
#include "tests/kernels/cuda_emulated.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace spillway {
namespace {

// ---- norm

class CudaNormTest : public CudaEmulated {
 protected:
  void compare(int64_t rows, int64_t cols, Placing placing, bool in_place) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << " at " << placing.offset
                                    << (in_place ? " in place" : ""));
    DeviceMatrix x = matrix(DType::f32, rows, cols, placing);
    DeviceMatrix weight = matrix(DType::f32, 1, cols, {.offset = placing.offset});
    DeviceMatrix out = matrix(DType::f32, rows, cols, placing);
    DeviceMatrix wanted = matrix(DType::f32, rows, cols);
    x.fill(cols, 3.0).upload(stream_);
    weight.fill(cols + 1).upload(stream_);
    reference_->ops().norm(*reference_stream_, x.host(), weight.host(), 1e-5f, wanted.host());
    reference_stream_->synchronize();
    const CudaNorm arguments = {
        .x = x.device(), .weight = weight.device(), .out = in_place ? x.device() : out.device(), .eps = 1e-5f};
    expect_fine(table_.norm(stream_, &arguments));
    DeviceMatrix& result = in_place ? x : out;
    result.download(stream_);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < cols; c++) {
        ASSERT_NEAR(result.at(r, c), wanted.at(r, c), 6 * kEps * std::abs(wanted.at(r, c))) << r << ", " << c;
      }
    }
  }
};

TEST_F(CudaNormTest, MatchesTheReference) {
  for (const int64_t cols : {1, 3, 64, 576, 1030, 4097}) compare(2, cols, {}, false);
  for (const Placing placing :
       {Placing{.offset = 4, .gap = 0}, Placing{.offset = 0, .gap = 4}, Placing{.offset = 8, .gap = 12}}) {
    compare(3, 96, placing, false);
    compare(3, 2050, placing, true);
  }
  compare(1, 64, {}, true);
  compare(0, 64, {}, false);
}

TEST_F(CudaNormTest, KeepsWhatIsNotANumber) {
  DeviceMatrix x = matrix(DType::f32, 1, 64), weight = matrix(DType::f32, 1, 64);
  x.fill(1);
  x.host().f32()[7] = std::numeric_limits<float>::quiet_NaN();
  x.upload(stream_);
  weight.fill(2).upload(stream_);
  const CudaNorm arguments = {.x = x.device(), .weight = weight.device(), .out = x.device(), .eps = 1e-5f};
  expect_fine(table_.norm(stream_, &arguments));
  x.download(stream_);
  for (int c = 0; c < 64; c++) EXPECT_TRUE(std::isnan(x.at(0, c)));
}

// ---- rotation

TEST_F(CudaEmulated, RotationMatchesTheReference) {
  struct Case {
    int64_t rows;
    int heads, head_dim, pairs;
    Placing placing;
  };
  for (const Case& c : {Case{1, 9, 64, 32, {}}, Case{5, 3, 80, 40, {4, 8}}, Case{2, 2, 96, 20, {}},
                        Case{3, 1, 128, 0, {}}, Case{0, 2, 64, 32, {}}, Case{2, 7, 128, 64, {12, 4}}}) {
    for (const RotationStyle style : {RotationStyle::adjacent, RotationStyle::halves}) {
      SCOPED_TRACE(testing::Message() << c.rows << " rows, " << c.heads << " heads of " << c.head_dim << ", " << c.pairs
                                      << " pairs");
      DeviceMatrix x = matrix(DType::f32, c.rows, c.heads * c.head_dim, c.placing);
      DeviceMatrix table = matrix(DType::f32, c.rows, 2 * c.pairs, c.placing);
      DeviceMatrix wanted = matrix(DType::f32, c.rows, c.heads * c.head_dim);
      x.fill(c.heads).upload(stream_);
      table.fill(c.pairs, 0.5).upload(stream_);
      for (int64_t r = 0; r < c.rows; r++) std::copy_n(x.host().f32(r), x.host().cols, wanted.host().f32(r));
      reference_->ops().rotate(*reference_stream_, wanted.host(), c.head_dim, style, table.host());
      reference_stream_->synchronize();
      const CudaRotate arguments = {.x = x.device(), .table = table.device(), .head_dim = c.head_dim, .style = style};
      expect_fine(table_.rotate(stream_, &arguments));
      x.download(stream_);
      for (int64_t r = 0; r < c.rows; r++) {
        for (int64_t i = 0; i < x.host().cols; i++)
          ASSERT_NEAR(x.at(r, i), wanted.at(r, i), 8 * kEps) << r << ", " << i;
      }
    }
  }
}

// ---- matrix-vector product

constexpr std::array kQuantized = {DType::q8_0, DType::q4_0, DType::q4_1};
constexpr std::array kFloats = {DType::f32, DType::f16, DType::bf16};

bool quantized(DType type) { return info(type).block_elements > 1; }

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

class CudaMatvecTest : public CudaEmulated {
 protected:
  // Parts that share x, in one call.
  void multiply(const DeviceMatrix& x, const std::vector<MatmulPart>& parts) {
    DeviceBytes scratch(table_, cuda_matvec_scratch_bytes(x.host().rows, x.host().cols));
    const CudaMatvec arguments = {.x = x.device(),
                                  .parts = parts.data(),
                                  .parts_count = static_cast<int32_t>(parts.size()),
                                  .scratch = scratch.device(),
                                  .scratch_bytes = scratch.bytes()};
    expect_fine(table_.matvec(stream_, &arguments));
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

  void compare(const Case& c) {
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
    if (quantized(c.type)) quantize_like_the_kernels(x.host(), seen.host());
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
};

TEST_F(CudaMatvecTest, QuantizedWeightsMatchTheReference) {
  for (const DType type : kQuantized) {
    for (const int64_t k : {32, 64, 576, 1056, 2112, 4160}) compare({.type = type, .m = 1, .n = 5, .k = k});
    for (const int64_t m : {0, 2, 3, 5, 9}) compare({.type = type, .m = m, .n = 3, .k = 1088, .add = m % 2 == 1});
    for (const int64_t n : {0, 1, 17, 35}) compare({.type = type, .m = 1, .n = n, .k = 96, .add = true});
    compare({.type = type, .m = 1, .n = 3, .k = 0});
  }
}

TEST_F(CudaMatvecTest, QuantizedWeightsMayLieAtAnyEvenAddress) {
  for (const DType type : kQuantized) {
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
  for (const DType type : {DType::q8_0, DType::q4_0, DType::q4_1, DType::f16, DType::f32}) {
    SCOPED_TRACE(info(type).name);
    constexpr int kRows = 9, kOut = 7, kCols = 2112;
    DeviceMatrix x = matrix(DType::f32, kRows, kCols), other = matrix(DType::bf16, 5, kCols);
    DeviceMatrix weight = matrix(type, kOut, kCols),
                 moved = matrix(type, kOut, kCols, type == DType::f32 ? Placing{4, 12} : Placing{14, 6});

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
      DeviceMatrix some = matrix(DType::f32, count, kCols, {.offset = 4}), alone = matrix(DType::f32, count, kOut);
      for (int r = 0; r < count; r++) std::copy_n(x.host().f32(row + r), kCols, some.host().f32(r));
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

// ---- attention over spans

class CudaAttendTest : public CudaEmulated {
 protected:
  // Spans of the given numbers of tokens, one task to each, slots in reverse.
  struct Work {
    AttendShape shape;
    std::vector<int> tokens;
  };

  void compare(const Work& work, double scale_of_q = 1.0) {
    const AttendShape& shape = work.shape;
    const KvFormat& format = shape.format;
    const auto count = static_cast<int64_t>(work.tokens.size());
    SCOPED_TRACE(testing::Message() << info(format.dtype).name << ", head_dim " << format.head_dim << ", group "
                                    << shape.heads / format.kv_heads << ", " << format.kv_heads << " KV heads");
    DeviceMatrix q = matrix(DType::f32, count, shape.heads * format.head_dim, {.offset = 4, .gap = 4});
    DeviceMatrix pages =
        matrix(format.dtype, count * kPagesPerSpan, format.row_of_pages_bytes() / info(format.dtype).block_bytes);
    DeviceMatrix states = matrix(DType::f32, count, shape.heads * attn_state_floats(format.head_dim), {.gap = 4});
    DeviceMatrix wanted = matrix(DType::f32, count, shape.heads * attn_state_floats(format.head_dim));
    DeviceBytes tasks(table_, count * sizeof(SpanTask));
    q.fill(format.head_dim, scale_of_q).upload(stream_);
    pages.fill(shape.heads).upload(stream_);
    std::vector<SpanTask> host_tasks;
    for (int64_t i = 0; i < count; i++) {
      SpanTask task{.row = static_cast<int32_t>(i), .slot = static_cast<int32_t>(count - 1 - i)};
      task.span.tokens = work.tokens[i];
      SpanTask on_device = task;
      for (int64_t p = 0; p * kPageTokens < work.tokens[i]; p++) {
        const int64_t row = i * kPagesPerSpan + (p * 5 + 3) % kPagesPerSpan;  // pages lie in no order
        task.span.rows[p] = pages.host().row(row);
        on_device.span.rows[p] = pages.device().row(row);
      }
      host_tasks.push_back(task);
      std::memcpy(tasks.host() + i * sizeof(SpanTask), &on_device, sizeof on_device);
    }
    tasks.upload(stream_);
    reference_->ops().attend(*reference_stream_, q.host(), shape, host_tasks, wanted.host());
    reference_stream_->synchronize();
    const CudaAttend arguments = {.q = q.device(),
                                  .states = states.device(),
                                  .shape = shape,
                                  .tasks = reinterpret_cast<const SpanTask*>(tasks.device()),
                                  .tasks_count = static_cast<int32_t>(count)};
    expect_fine(table_.attend(stream_, &arguments));
    states.download(stream_);
    for (int64_t slot = 0; slot < count; slot++) {
      SCOPED_TRACE(testing::Message() << work.tokens[count - 1 - slot] << " tokens");
      for (int head = 0; head < shape.heads; head++) {
        compare_state(states.host().f32(slot) + head * attn_state_floats(format.head_dim),
                      wanted.host().f32(slot) + head * attn_state_floats(format.head_dim), format.head_dim);
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_F(CudaAttendTest, MatchesTheReference) {
  for (const int head_dim : {64, 80, 96, 128}) {
    compare({attend_shape(DType::f16, head_dim, 2, 3), {130, 1, 64}});
    compare({attend_shape(DType::f32, head_dim, 1, 2), {70, 63}});
    compare({attend_shape(DType::bf16, head_dim, 1, 1), {65, 127}});
  }
  for (const int group : {1, 2, 3, 7, 8, 12}) compare({attend_shape(DType::f16, 64, 1, group), {77}});
  compare({attend_shape(DType::f16, 128, 1, 8), {100}});
  compare({attend_shape(DType::f16, 8, 2, 1), {5, 90}});
}

TEST_F(CudaAttendTest, WholePartialAndEmptySpans) {
  compare({attend_shape(DType::f16, 64, 1, 2), {512, 511, 0, 449, 1}});
  compare({attend_shape(DType::f16, 64, 1, 1), {}});
}

// One score far above the others, and scores far apart: weights that vanish, exponents at their limits.
TEST_F(CudaAttendTest, SharpSoftmax) { compare({attend_shape(DType::f32, 64, 1, 2), {200, 64}}, 40.0); }

TEST_F(CudaAttendTest, UnknownFormatsAreRefused) {
  const KvFormat formats[] = {{.dtype = DType::q8_0, .kv_heads = 1, .head_dim = 64},
                              {.dtype = DType::f16, .kv_heads = 1, .head_dim = 256},
                              {.dtype = DType::f16, .kv_heads = 1, .head_dim = 60}};
  for (const KvFormat& format : formats) {
    DeviceMatrix q = matrix(DType::f32, 1, format.head_dim);
    DeviceMatrix states = matrix(DType::f32, 1, attn_state_floats(format.head_dim));
    DeviceBytes tasks(table_, sizeof(SpanTask));
    const CudaAttend arguments = {.q = q.device(),
                                  .states = states.device(),
                                  .shape = {.format = format, .heads = 1},
                                  .tasks = reinterpret_cast<const SpanTask*>(tasks.device()),
                                  .tasks_count = 1};
    EXPECT_NE(table_.attend(stream_, &arguments), nullptr);
  }
}

// ---- the order in which threads, warps and blocks happen to run

TEST(CudaEmulatedOrder, NeverChangesAResult) {
  const SpillwayCudaTable& table = *spillway_cuda_table();
  std::vector<std::vector<float>> results;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    emulation::restart(seed);
    CudaStream stream;
    expect_fine(table.make_stream(&stream));
    {
      constexpr int kCols = 1056, kHeadDim = 64, kTokens = 150;
      DeviceMatrix x(table, DType::f32, 2, kCols), norm_weight(table, DType::f32, 1, kCols),
          y(table, DType::f32, 2, kCols);
      DeviceMatrix weight(table, DType::q4_0, 2 * kHeadDim, kCols, {.offset = 6}),
          q(table, DType::f32, 2, 2 * kHeadDim);
      DeviceMatrix turns(table, DType::f32, 2, kHeadDim), page(table, DType::f16, 3, 2 * kPageTokens * kHeadDim);
      const AttendShape shape = {
          .format = {.dtype = DType::f16, .kv_heads = 1, .head_dim = kHeadDim}, .heads = 2, .scale = 0.125f};
      DeviceMatrix states(table, DType::f32, 2, 2 * attn_state_floats(kHeadDim));
      DeviceBytes scratch(table, cuda_matvec_scratch_bytes(2, kCols)), tasks(table, 2 * sizeof(SpanTask));
      uint64_t fill = 1;
      for (DeviceMatrix* matrix : {&x, &norm_weight, &weight, &turns, &page}) matrix->fill(fill++).upload(stream);
      for (int i = 0; i < 2; i++) {
        SpanTask task{.row = i, .slot = i};
        task.span.tokens = kTokens - 30 * i;
        for (int p = 0; p < 3; p++) task.span.rows[p] = page.device().row(p);
        std::memcpy(tasks.host() + i * sizeof task, &task, sizeof task);
      }
      tasks.upload(stream);
      const CudaNorm norm = {.x = x.device(), .weight = norm_weight.device(), .out = y.device(), .eps = 1e-5f};
      const MatmulPart part = {weight.device(), q.device()};
      const CudaMatvec matvec = {.x = y.device(),
                                 .parts = &part,
                                 .parts_count = 1,
                                 .scratch = scratch.device(),
                                 .scratch_bytes = scratch.bytes()};
      const CudaRotate rotate = {
          .x = q.device(), .table = turns.device(), .head_dim = kHeadDim, .style = RotationStyle::halves};
      const CudaAttend attend = {.q = q.device(),
                                 .states = states.device(),
                                 .shape = shape,
                                 .tasks = reinterpret_cast<const SpanTask*>(tasks.device()),
                                 .tasks_count = 2};
      expect_fine(table.norm(stream, &norm));
      expect_fine(table.matvec(stream, &matvec));
      expect_fine(table.rotate(stream, &rotate));
      expect_fine(table.attend(stream, &attend));
      states.download(stream);
      results.emplace_back();
      for (int r = 0; r < 2; r++)
        results.back().insert(results.back().end(), states.host().f32(r), states.host().f32(r) + states.host().cols);
      for (const float value : results.back()) ASSERT_TRUE(std::isfinite(value));
    }
    expect_fine(table.end_stream(stream));
  }
  for (const std::vector<float>& result : results) {
    EXPECT_EQ(std::memcmp(result.data(), results[0].data(), result.size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace spillway
