// The operations that some model families need (layer norm, biases, activations, windows), on every backend, against
// the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridFamily : public OpGrid {};

TEST_P(OpGridFamily, LayerNormIsWithinRounding) {
  SPILLWAY_REQUIRE_OP(layer_norm);
  OpBench bench(GetParam());
  for (int64_t cols : {1, 7, 16, 33, 768, 1030}) {
    for (int64_t rows : {0, 1, 3, 40}) {
      BenchMatrix x(bench.device(), DType::f32, rows, cols, 4, 8);
      BenchMatrix weight(bench.device(), DType::f32, 1, cols, 4);
      BenchMatrix bias(bench.device(), DType::f32, 1, cols, 8);
      BenchMatrix wanted(bench.device(), DType::f32, rows, cols);
      x.fill(1);
      weight.fill(2);
      bias.fill(3);
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) x.row(r)[i] += 10.0f;  // a mean that is large beside the deviation
      }
      bench.reference(
          [&](Ops& ops, Stream& s) { ops.layer_norm(s, x.here(), weight.here(), bias.here(), 1e-5f, wanted.here()); });
      x.upload(bench.stream());
      weight.upload(bench.stream());
      bias.upload(bench.stream());
      bench.ops().layer_norm(bench.stream(), x.there(), weight.there(), bias.there(), 1e-5f, x.there());
      x.download(bench.stream());
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < cols; i++) {
          // x - mean is off by roundings of the mean, whatever is left of it; a single column leaves nothing.
          const double scale = cols == 1 ? 1.0 / std::sqrt(1e-5) : 4.0;
          ASSERT_NEAR(x.row(r)[i], wanted.row(r)[i], 24 * kRounding * (10.0 * scale + std::abs(wanted.row(r)[i])))
              << r << ", " << i << " of " << cols;
        }
      }
    }
  }
}

TEST_P(OpGridFamily, AddOfRowsAndOfOneRow) {
  SPILLWAY_REQUIRE_OP(add);
  OpBench bench(GetParam());
  for (int64_t cols : {1, 5, 64, 1025}) {
    for (int64_t rows : {0, 1, 6}) {
      for (int64_t y_rows : {int64_t{1}, rows}) {
        BenchMatrix x(bench.device(), DType::f32, rows, cols, 8, 4);
        BenchMatrix y(bench.device(), DType::f32, y_rows, cols, 4, 12);
        BenchMatrix wanted(bench.device(), DType::f32, rows, cols);
        x.fill(1);
        y.fill(2);
        for (int64_t r = 0; r < rows; r++) std::memcpy(wanted.row(r), x.row(r), cols * sizeof(float));
        if (y_rows == rows || y_rows == 1) {
          bench.reference([&](Ops& ops, Stream& s) { ops.add(s, wanted.here(), y.here()); });
        }
        x.upload(bench.stream());
        y.upload(bench.stream());
        bench.ops().add(bench.stream(), x.there(), y.there());
        x.download(bench.stream());
        for (int64_t r = 0; r < rows; r++) {
          for (int64_t i = 0; i < cols; i++) ASSERT_EQ(x.row(r)[i], wanted.row(r)[i]) << r << ", " << i;
        }
      }
    }
  }
}

TEST_P(OpGridFamily, Scale) {
  SPILLWAY_REQUIRE_OP(scale);
  OpBench bench(GetParam());
  for (int64_t cols : {1, 33, 640}) {
    BenchMatrix x(bench.device(), DType::f32, 3, cols, 4, 4);
    x.fill(1);
    x.upload(bench.stream());
    bench.ops().scale(bench.stream(), x.there(), 2.5f);
    BenchMatrix before(bench.device(), DType::f32, 3, cols);
    before.fill(1);
    x.download(bench.stream());
    for (int64_t r = 0; r < 3; r++) {
      for (int64_t i = 0; i < cols; i++) ASSERT_EQ(x.row(r)[i], 2.5f * before.row(r)[i]);
    }
  }
}

TEST_P(OpGridFamily, ActivationsGatedAndAlone) {
  SPILLWAY_REQUIRE_OP(activate);
  OpBench bench(GetParam());
  for (Activation kind : {Activation::silu, Activation::gelu, Activation::relu}) {
    for (int64_t cols : {1, 16, 37, 1500}) {
      for (bool gated : {true, false}) {
        BenchMatrix gate(bench.device(), DType::f32, 3, cols, 4, 8);
        BenchMatrix up(bench.device(), DType::f32, 3, cols, 8);
        BenchMatrix wanted(bench.device(), DType::f32, 3, cols);
        gate.fill(1, 5.0);
        up.fill(2);
        const View none;
        bench.reference(
            [&](Ops& ops, Stream& s) { ops.activate(s, kind, gate.here(), gated ? up.here() : none, wanted.here()); });
        gate.upload(bench.stream());
        up.upload(bench.stream());
        bench.ops().activate(bench.stream(), kind, gate.there(), gated ? up.there() : none, gate.there());
        gate.download(bench.stream());
        for (int64_t r = 0; r < 3; r++) {
          for (int64_t i = 0; i < cols; i++) {
            // 1 + tanh(u) far below zero is a small difference: relative to the input, it is small too.
            const double slack = 16 * kRounding * std::abs(wanted.row(r)[i]) + (kind == Activation::gelu ? 2e-7 : 0.0);
            ASSERT_NEAR(gate.row(r)[i], wanted.row(r)[i], slack) << static_cast<int>(kind) << ": " << r << ", " << i;
          }
        }
      }
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridFamily);

}  // namespace
}  // namespace spillway
