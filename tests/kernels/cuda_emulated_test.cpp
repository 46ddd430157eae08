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
  for (const int head_dim : {64, 80, 96, 128, 200, 256}) {
    compare({attend_shape(DType::f16, head_dim, 2, 3), {130, 1, 64}});
    compare({attend_shape(DType::f32, head_dim, 1, 2), {70, 63}});
    compare({attend_shape(DType::bf16, head_dim, 1, 1), {65, 127}});
  }
  for (const int group : {1, 2, 3, 7, 8, 12}) compare({attend_shape(DType::f16, 64, 1, group), {77}});
  compare({attend_shape(DType::f16, 128, 1, 8), {100}});
  compare({attend_shape(DType::f32, 256, 1, 7), {100}});
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
                              {.dtype = DType::f16, .kv_heads = 1, .head_dim = 264},
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
