// The choice of experts, their products, and their sum, on every backend: against the reference, and to the bit against
// products of each expert's rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridExperts : public OpGrid {};

// Routes on both sides.
class BenchRoutes {
 public:
  BenchRoutes(Device& device, int64_t rows, int experts, int used)
      : bytes_(device, ExpertRoutes{nullptr, rows, experts, used}.bytes()),
        here{bytes_.here(), rows, experts, used},
        there{bytes_.there(), rows, experts, used} {}
  void upload(Stream& stream) { bytes_.upload(stream); }
  void download(Stream& stream) { bytes_.download(stream); }

 private:
  BenchBytes bytes_;

 public:
  const ExpertRoutes here, there;
};

ModelShape shape_of(int experts, int used, int hidden, int ffn) {
  ModelShape shape;
  shape.experts = experts;
  shape.experts_used = used;
  shape.hidden = hidden;
  shape.expert_ffn = ffn;
  return shape;
}

struct Choice {
  int experts, used;
};
constexpr Choice kChoices[] = {{1, 1}, {4, 2}, {7, 3}, {33, 33}, {128, 8}, {1024, 64}};

TEST_P(OpGridExperts, ChoiceAndPlaces) {
  SPILLWAY_REQUIRE_OP(route);
  for (const Choice& c : kChoices) {
    OpBench bench(GetParam(), shape_of(c.experts, c.used, 40, 8), 50);
    for (const int64_t rows : {0, 1, 3, 50}) {
      if (GetParam().emulated && c.experts > 200 && rows > 3) continue;
      for (const bool normalise : {false, true}) {
        const int64_t cols = 40;
        BenchMatrix logits(bench.device(), DType::f32, rows, c.experts, 4, 8);
        BenchMatrix x(bench.device(), DType::f32, rows, cols, 4, 12);
        BenchMatrix out(bench.device(), DType::f32, rows * c.used, cols, 8, 4);
        BenchMatrix wanted(bench.device(), DType::f32, rows * c.used, cols);
        BenchRoutes routes(bench.device(), rows, c.experts, c.used);
        logits.fill(1, 3.0);
        x.fill(2);
        for (int64_t r = 0; r < rows; r++) {
          for (int e = 0; r % 3 == 1 && e < c.experts; e++) logits.row(r)[e] = static_cast<float>(e / 5 % 3);  // ties
          if (r % 3 == 2) logits.row(r)[c.experts / 2] = std::numeric_limits<float>::quiet_NaN();
          if (r % 7 == 2) logits.row(r)[c.experts - 1] = -std::numeric_limits<float>::infinity();
        }
        std::vector<std::byte> expected_bytes(routes.here.bytes());
        const ExpertRoutes expected{expected_bytes.data(), rows, c.experts, c.used};
        bench.reference(
            [&](Ops& ops, Stream& s) { ops.route(s, logits.here(), x.here(), normalise, expected, wanted.here()); });
        logits.upload(bench.stream());
        x.upload(bench.stream());
        bench.ops().route(bench.stream(), logits.there(), x.there(), normalise, routes.there, out.there());
        out.download(bench.stream());
        routes.download(bench.stream());
        const auto same = [](const int32_t* a, const int32_t* b, int64_t count) {
          return std::memcmp(a, b, static_cast<size_t>(count) * sizeof *a) == 0;
        };
        const int64_t places = rows * c.used;
        ASSERT_TRUE(same(routes.here.first(), expected.first(), c.experts + 1)) << c.experts << ", " << rows;
        ASSERT_TRUE(same(routes.here.chosen(), expected.chosen(), places)) << c.experts << ", " << rows;
        ASSERT_TRUE(same(routes.here.place(), expected.place(), places)) << c.experts << ", " << rows;
        ASSERT_TRUE(same(routes.here.expert(), expected.expert(), places)) << c.experts << ", " << rows;
        for (int64_t i = 0; i < places; i++) {
          const float weight = expected.weight()[i];
          ASSERT_NEAR(routes.here.weight()[i], weight, (16 + c.experts / 8.0) * kRounding * weight) << i;
          ASSERT_TRUE(same_bits(out.here(), i, wanted.here(), i));
        }
      }
    }
  }
}

// The reference by its definition, on a case small enough to be worked out by hand.
TEST(ReferenceExperts, ChoiceWorkedOutByHand) {
  const auto device = make_reference_device();
  const auto stream = device->make_compute_stream("test");
  float logits[] = {0.0f, std::log(2.0f), std::log(4.0f), 0.0f,  // 1, 2, 4, 1 of 8
                    1.0f, 1.0f,           1.0f,           1.0f};
  float x[] = {10.0f, 20.0f}, rows[4] = {};
  for (const bool normalise : {false, true}) {
    std::vector<std::byte> bytes(ExpertRoutes{nullptr, 2, 4, 2}.bytes());
    const ExpertRoutes routes{bytes.data(), 2, 4, 2};
    device->ops().route(*stream, View::dense(logits, DType::f32, 2, 4), View::dense(x, DType::f32, 2, 1), normalise,
                        routes, View::dense(rows, DType::f32, 4, 1));
    stream->synchronize();
    EXPECT_EQ(std::vector<int32_t>(routes.first(), routes.first() + 5), (std::vector<int32_t>{0, 1, 3, 4, 4}));
    EXPECT_EQ(std::vector<int32_t>(routes.chosen(), routes.chosen() + 4), (std::vector<int32_t>{1, 2, 0, 1}));
    EXPECT_EQ(std::vector<int32_t>(routes.place(), routes.place() + 4), (std::vector<int32_t>{1, 3, 0, 2}));
    EXPECT_EQ(std::vector<float>(rows, rows + 4), (std::vector<float>{20.0f, 10.0f, 20.0f, 10.0f}));
    EXPECT_FLOAT_EQ(routes.weight()[0], normalise ? 2.0f / 6 : 2.0f / 8);
    EXPECT_FLOAT_EQ(routes.weight()[1], normalise ? 4.0f / 6 : 4.0f / 8);
    EXPECT_FLOAT_EQ(routes.weight()[2], normalise ? 0.5f : 0.25f);
  }
}

// A layer's experts with random weights and a random choice of them.
struct Case {
  Case(OpBench& bench, const ModelShape& shape, int64_t row_count, DType in_type, DType down_type)
      : rows(row_count),
        hidden(shape.hidden),
        ffn(shape.expert_ffn),
        experts(shape.experts),
        gate(bench.device(), in_type, int64_t{experts} * ffn, hidden, is_quantised(in_type) ? 2 : 4),
        up(bench.device(), in_type, int64_t{experts} * ffn, hidden, is_quantised(in_type) ? 6 : 8),
        down(bench.device(), down_type, int64_t{experts} * hidden, ffn, 4),
        routes(bench.device(), rows, experts, shape.experts_used),
        logits(bench.device(), DType::f32, rows, experts),
        x(bench.device(), DType::f32, rows, hidden),
        places(bench.device(), DType::f32, rows * shape.experts_used, hidden),
        inner_gate(bench.device(), DType::f32, rows * shape.experts_used, ffn),
        inner_up(bench.device(), DType::f32, rows * shape.experts_used, ffn) {
    gate.fill(1, 1.0 / std::sqrt(hidden));
    up.fill(2, 1.0 / std::sqrt(hidden));
    down.fill(3, 1.0 / std::sqrt(ffn));
    logits.fill(4, 2.0);
    x.fill(5);
    for (int64_t r = 0; r < rows; r++) logits.row(r)[0] += 4.0f;  // one that many rows go to
    for (auto* m : {&gate, &up, &down, &logits, &x}) m->upload(bench.stream());
  }

  ExpertWeights weights(bool here, std::vector<ExpertData>& data, const std::function<bool(int)>& which) {
    const auto one = [&](BenchMatrix& all, int64_t of_rows, int e) {
      return (here ? all.here() : all.there()).slice_rows(e * of_rows, of_rows);
    };
    data.assign(static_cast<size_t>(experts), {});
    for (int e = 0; e < experts; e++) {
      if (which(e)) data[e] = {{one(gate, ffn, e).data, one(up, ffn, e).data, one(down, hidden, e).data}};
    }
    ExpertWeights w{one(gate, ffn, 0), one(up, ffn, 0), one(down, hidden, 0), data};
    w.gate.data = w.up.data = w.down.data = nullptr;
    return w;
  }

  void route(OpBench& bench) {
    bench.ops().route(bench.stream(), logits.there(), x.there(), true, routes.there, places.there());
    bench.stream().synchronize();
  }
  void run(OpBench& bench, const std::function<bool(int)>& which) {
    std::vector<ExpertData> data;
    bench.ops().experts(bench.stream(), Activation::silu, routes.there, weights(false, data, which), places.there(),
                        inner_gate.there(), inner_up.there());
    bench.stream().synchronize();
  }

  int64_t rows, hidden, ffn;
  int experts;
  BenchMatrix gate, up, down;
  BenchRoutes routes;
  BenchMatrix logits, x, places, inner_gate, inner_up;
};

struct Types {
  DType in, down;
};
constexpr Types kTypes[] = {{DType::f32, DType::f32},  {DType::bf16, DType::f16},  {DType::q8_0, DType::q8_0},
                            {DType::q4_0, DType::f16}, {DType::q4_k, DType::q6_k}, {DType::iq4_xs, DType::q5_k}};

class Sizes {
 public:
  explicit Sizes(const Types& types) : blocks_(info(types.in).block_elements > 32 ? 256 : 32) {}
  ModelShape shape() const { return shape_of(5, 2, static_cast<int>(blocks_), blocks_ == 256 ? 256 : 96); }

 private:
  int64_t blocks_;
};

// Of each expert, those of products of all its rows: by whichever kernels those of so many rows take.
TEST_P(OpGridExperts, RowsAreThoseOfProducts) {
  SPILLWAY_REQUIRE_OP(route);
  for (const Types& types : kTypes) {
    const ModelShape shape = Sizes(types).shape();
    OpBench bench(GetParam(), shape, 90);
    Ops& ops = bench.ops();
    for (const int64_t rows : {1, 2, 23, 90}) {
      Case c(bench, shape, rows, types.in, types.down);
      c.route(bench);
      c.routes.download(bench.stream());
      c.places.download(bench.stream());
      const int32_t* first = c.routes.here.first();
      BenchMatrix x(bench.device(), DType::f32, c.routes.here.places(), c.hidden);
      for (int64_t p = 0; p < x.here().rows; p++)
        std::memcpy(x.row(p), c.places.row(p), row_bytes(DType::f32, c.hidden));
      x.upload(bench.stream());
      c.run(bench, [](int) { return true; });
      c.places.download(bench.stream());
      int64_t most = 0;
      for (int e = 0; e < c.experts; e++) {
        const int64_t count = first[e + 1] - first[e];
        if (count == 0) continue;
        most = std::max(most, count);
        BenchMatrix gate(bench.device(), DType::f32, count, c.ffn), up(bench.device(), DType::f32, count, c.ffn);
        BenchMatrix out(bench.device(), DType::f32, count, c.hidden);
        const MatmulPart in[] = {{c.gate.there().slice_rows(e * c.ffn, c.ffn), gate.there()},
                                 {c.up.there().slice_rows(e * c.ffn, c.ffn), up.there()}};
        ops.matmul(bench.stream(), x.there().slice_rows(first[e], count), in);
        ops.activate(bench.stream(), Activation::silu, gate.there(), up.there(), gate.there());
        const MatmulPart back = {c.down.there().slice_rows(e * c.hidden, c.hidden), out.there()};
        ops.matmul(bench.stream(), gate.there(), {&back, 1});
        out.download(bench.stream());
        for (int64_t r = 0; r < count; r++) {
          ASSERT_TRUE(same_bits(c.places.here(), first[e] + r, out.here(), r))
              << info(types.in).name << ", " << rows << " rows, expert " << e << ": row " << r << " of " << count;
        }
      }
      ASSERT_TRUE(rows < 90 || most > 64) << "the larger tile and more";
    }
  }
}

// Experts that come in several calls, as they arrive, give what one call gives; those that are not here are untouched.
TEST_P(OpGridExperts, InAnyNumberOfCalls) {
  SPILLWAY_REQUIRE_OP(route);
  for (const Types& types : {kTypes[0], kTypes[2]}) {
    const ModelShape shape = Sizes(types).shape();
    OpBench bench(GetParam(), shape, 60);
    Case whole(bench, shape, 19, types.in, types.down), parts(bench, shape, 19, types.in, types.down);
    whole.route(bench);
    whole.run(bench, [](int) { return true; });
    whole.places.download(bench.stream());
    parts.route(bench);
    parts.routes.download(bench.stream());
    parts.run(bench, [](int e) { return e == 3 || e == 0; });
    parts.places.download(bench.stream());
    for (int64_t p = 0; p < 19 * shape.experts_used; p++) {
      const int e = parts.routes.here.expert()[p];
      const bool done = e == 3 || e == 0;
      ASSERT_EQ(same_bits(parts.places.here(), p, whole.places.here(), p), done) << p;
    }
    parts.run(bench, [](int e) { return e == 4; });
    parts.run(bench, [](int e) { return e == 1 || e == 2; });
    parts.places.download(bench.stream());
    for (int64_t p = 0; p < 19 * shape.experts_used; p++) {
      ASSERT_TRUE(same_bits(parts.places.here(), p, whole.places.here(), p)) << p;
    }
  }
}

TEST_P(OpGridExperts, AreWithinRoundingOfTheReference) {
  SPILLWAY_REQUIRE_OP(route);
  const ModelShape shape = shape_of(6, 3, 45, 37);
  OpBench bench(GetParam(), shape, 21);
  Case c(bench, shape, 21, DType::f32, DType::f32);
  c.route(bench);
  c.routes.download(bench.stream());
  c.places.download(bench.stream());
  BenchMatrix wanted(bench.device(), DType::f32, 63, 45), gate(bench.device(), DType::f32, 63, 37),
      up(bench.device(), DType::f32, 63, 37), sum(bench.device(), DType::f32, 21, 45);
  sum.fill(9);
  BenchMatrix got(bench.device(), DType::f32, 21, 45);
  for (int64_t r = 0; r < 21; r++) std::memcpy(got.row(r), sum.row(r), 45 * sizeof(float));
  got.upload(bench.stream());
  for (int64_t p = 0; p < 63; p++) std::memcpy(wanted.row(p), c.places.row(p), 45 * sizeof(float));
  std::vector<ExpertData> data;
  bench.reference([&](Ops& ops, Stream& s) {
    ops.experts(s, Activation::silu, c.routes.here, c.weights(true, data, [](int) { return true; }), wanted.here(),
                gate.here(), up.here());
    ops.combine(s, c.routes.here, wanted.here(), sum.here());
  });
  c.run(bench, [](int) { return true; });
  c.places.download(bench.stream());
  for (int64_t p = 0; p < 63; p++) {
    for (int64_t i = 0; i < 45; i++) ASSERT_NEAR(c.places.row(p)[i], wanted.row(p)[i], 2e-6) << p << ", " << i;
  }
  bench.ops().combine(bench.stream(), c.routes.there, c.places.there(), got.there());
  got.download(bench.stream());
  for (int64_t r = 0; r < 21; r++) {
    for (int64_t i = 0; i < 45; i++) ASSERT_NEAR(got.row(r)[i], sum.row(r)[i], 4e-6) << r << ", " << i;
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridExperts);

}  // namespace
}  // namespace spillway
