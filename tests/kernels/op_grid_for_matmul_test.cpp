// Operations that make ready what products read next: their out and the products' have the bits of the plain ones, on
// every backend.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridForMatmul : public OpGrid {
 protected:
  static constexpr int64_t kOutputs = 37;
  static constexpr int64_t kRows[] = {1, 3, 8, 9, 40};

  using Make = std::function<void(OpBench&, const View& out, bool for_matmul)>;

  // Products of what `make` writes, one weight after another, as the plain operations give them and as these do.
  void compare(OpBench& bench, int64_t rows, int64_t cols, const Make& make, uint64_t offset = 0, uint64_t gap = 0) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << " at " << offset << ", " << gap);
    BenchMatrix plain(bench.device(), DType::f32, rows, cols, offset, gap);
    BenchMatrix ready(bench.device(), DType::f32, rows, cols, offset, gap);
    make(bench, plain.there(), false);
    const std::vector<float> wanted = products(bench, plain.there(), false);
    make(bench, ready.there(), true);
    const std::vector<float> found = products(bench, ready.there(), true);
    plain.download(bench.stream());
    ready.download(bench.stream());
    for (int64_t r = 0; r < rows; r++) ASSERT_TRUE(same_bits(plain.here(), r, ready.here(), r)) << "row " << r;
    ASSERT_EQ(wanted.size(), found.size());
    EXPECT_EQ(std::memcmp(wanted.data(), found.data(), wanted.size() * sizeof(float)), 0);
  }

  static std::vector<float> products(OpBench& bench, const View& x, bool ready) {
    std::vector<float> results;
    for (const DType type : {DType::q4_0, DType::f16, DType::q8_0, DType::q6_k, DType::f32}) {
      if (x.cols % info(type).block_elements != 0) continue;
      BenchMatrix weight(bench.device(), type, kOutputs, x.cols), out(bench.device(), DType::f32, x.rows, kOutputs);
      weight.fill(2, 0.1);
      weight.upload(bench.stream());
      const MatmulPart part{weight.there(), out.there(), false};
      if (ready) {
        bench.ops().matmul_more(bench.stream(), x, {&part, 1});
      } else {
        bench.ops().matmul(bench.stream(), x, {&part, 1});
      }
      out.download(bench.stream());
      for (int64_t r = 0; r < x.rows; r++) results.insert(results.end(), out.row(r), out.row(r) + kOutputs);
    }
    return results;
  }

  static OpBench bench_for(int64_t cols) {
    ModelShape shape;
    shape.hidden = static_cast<int>(cols);
    return OpBench(GetParam(), shape, 64);
  }
};

TEST_P(OpGridForMatmul, Norm) {
  SPILLWAY_REQUIRE_OP(norm);
  for (const int64_t cols : {32, 33, 96, 256, 1312}) {
    OpBench bench = bench_for(cols);
    BenchMatrix weight(bench.device(), DType::f32, 1, cols);
    weight.fill(4);
    weight.upload(bench.stream());
    for (const int64_t rows : kRows) {
      for (const uint64_t offset : {0, 4}) {
        BenchMatrix x(bench.device(), DType::f32, rows, cols);
        x.fill(5);
        for (int64_t r = 0; r < rows; r++) x.row(r)[r % cols] = 60.0f;
        x.upload(bench.stream());
        compare(
            bench, rows, cols,
            [&](OpBench& b, const View& out, bool for_matmul) {
              if (for_matmul) return b.ops().norm_for_matmul(b.stream(), x.there(), weight.there(), 1e-5f, out);
              b.ops().norm(b.stream(), x.there(), weight.there(), 1e-5f, out);
            },
            offset, 2 * offset);
      }
    }
  }
}

// What is not finite, all zeros, and elements whose codes end at the range's ends.
TEST_P(OpGridForMatmul, ActivateOfAnything) {
  SPILLWAY_REQUIRE_OP(activate);
  for (const int64_t cols : {32, 130, 512, 1568}) {
    OpBench bench = bench_for(cols);
    for (const int64_t rows : kRows) {
      BenchMatrix gate(bench.device(), DType::f32, rows, cols), up(bench.device(), DType::f32, rows, cols);
      gate.fill(6, 3.0);
      up.fill(7);
      gate.row(0)[cols - 1] = std::numeric_limits<float>::quiet_NaN();
      up.row(rows - 1)[0] = std::numeric_limits<float>::infinity();
      std::fill_n(up.row(rows / 2), 32, 0.0f);
      gate.upload(bench.stream());
      up.upload(bench.stream());
      for (const bool gated : {true, false}) {
        compare(bench, rows, cols, [&](OpBench& b, const View& out, bool for_matmul) {
          const View by = gated ? up.there() : View{};
          if (for_matmul) return b.ops().activate_for_matmul(b.stream(), Activation::silu, gate.there(), by, out);
          b.ops().activate(b.stream(), Activation::silu, gate.there(), by, out);
        });
      }
    }
  }
}

TEST_P(OpGridForMatmul, Merge) {
  SPILLWAY_REQUIRE_OP(merge);
  for (const int head_dim : {64, 80, 96, 256}) {
    const AttendShape shape{{DType::f16, 1, head_dim}, 3, 1.0f};
    const int64_t cols = int64_t{shape.heads} * head_dim;
    ModelShape model;
    model.hidden = static_cast<int>(cols);
    model.heads = shape.heads;
    model.kv_heads = 1;
    model.head_dim = head_dim;
    OpBench bench(GetParam(), model, 64);
    for (const int64_t rows : {1, 8, 9}) {
      BenchMatrix states(bench.device(), DType::f32, 3 * rows, shape.heads * attn_state_floats(head_dim));
      states.fill(9);
      std::vector<MergeTask> tasks;
      for (int r = 0; r < rows; r++) tasks.push_back({r, 3 * r, 1 + r % 3});
      for (int64_t s = 0; s < 3 * rows; s++) {
        for (int h = 0; h < shape.heads; h++) {
          float& sum = states.row(s)[h * attn_state_floats(head_dim) + head_dim + 1];
          sum = 1.0f + std::abs(sum);
        }
      }
      states.upload(bench.stream());
      compare(bench, rows, cols, [&](OpBench& b, const View& out, bool for_matmul) {
        if (for_matmul) return b.ops().merge_for_matmul(b.stream(), states.there(), shape, tasks, out);
        b.ops().merge(b.stream(), states.there(), shape, tasks, out);
      });
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridForMatmul);

}  // namespace
}  // namespace spillway
