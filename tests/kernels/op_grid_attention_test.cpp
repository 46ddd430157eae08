// Attention, on every backend: partial states and their merging against the reference, and to the bit against
// themselves in other company.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/blocks.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridAttention : public OpGrid {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The keys and values of one layer, in pages on the device and here. What no token fills is NaN: reading it would show.
class Kv {
 public:
  Kv(OpBench& bench, const KvFormat& format, int tokens)
      : format_(format),
        tokens_(tokens),
        pages_(bench.device(), (tokens + kPageTokens - 1) / kPageTokens * format.row_of_pages_bytes()) {
    std::memset(pages_.here(), 0xff, pages_.size());
    const int64_t width = int64_t{format.kv_heads} * format.head_dim;
    BenchMatrix k(bench.device(), DType::f32, tokens, width);
    BenchMatrix v(bench.device(), DType::f32, tokens, width);
    k.fill(21);
    v.fill(22);
    for (int t = 0; t < tokens; t += 37) v.row(t)[t % width] = 40.0f;  // outliers: a token left out would be seen
    std::vector<AppendRun> runs;
    for (int t = 0; t < tokens; t += kPageTokens) {
      runs.push_back({row(pages_.here(), t), 0, t, std::min(kPageTokens, tokens - t)});
    }
    bench.reference([&](Ops& ops, Stream& s) { ops.append(s, k.here(), v.here(), format, runs); });
    pages_.upload(bench.stream());
  }

  // Spans of the first `tokens` positions.
  std::vector<KvSpan> spans(bool on_device, int tokens) {
    std::vector<KvSpan> all;
    for (int first = 0; first < tokens; first += kSpanTokens) {
      KvSpan span;
      span.first_position = first;
      span.tokens = std::min(kSpanTokens, tokens - first);
      for (int t = 0; t < span.tokens; t += kPageTokens) {
        span.rows[t / kPageTokens] = row(on_device ? pages_.there() : pages_.here(), first + t);
      }
      all.push_back(span);
    }
    return all;
  }

 private:
  std::byte* row(std::byte* base, int token) const { return base + token / kPageTokens * format_.row_of_pages_bytes(); }

  KvFormat format_;
  int tokens_;
  BenchBytes pages_;
};

struct Shape {
  int group;
  int kv_heads;
  int head_dim;
  DType type = DType::f16;  // of keys and values
};

AttendShape attend_shape(const Shape& s) {
  return {{s.type, s.kv_heads, s.head_dim}, s.group * s.kv_heads, 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
}

ModelShape model_shape(const Shape& s) {
  ModelShape shape;
  shape.heads = s.group * s.kv_heads;
  shape.kv_heads = s.kv_heads;
  shape.head_dim = s.head_dim;
  return shape;
}

int64_t query_width(const AttendShape& s) { return int64_t{s.heads} * s.format.head_dim; }
int64_t states_width(const AttendShape& s) { return int64_t{s.heads} * attn_state_floats(s.format.head_dim); }

// A score is a sum of head_dim products of |q| about 1 and |k| about 1 (4 standard deviations at most, all of them
// taken); what it is off by, the weights are off by, relatively. rounding: of the queries, besides.
double score_error(const AttendShape& s, double rounding) {
  return s.scale * s.format.head_dim * 2.0 * ((s.format.head_dim + 4) * kRounding + rounding);
}

// Of queries, to multiply them by halves.
double query_rounding(const Backend& backend, const Shape& s) {
  return backend.attends_in_halves && s.type == DType::f16 ? 0x1p-11 : 0.0;
}

// States as what they mean: the average and the logarithm of the sum. rounding: of queries and weights, one each.
void expect_states(const AttendShape& s, const float* got, const float* wanted, double tokens, const std::string& what,
                   double rounding = 0) {
  const int d = s.format.head_dim;
  for (int h = 0; h < s.heads; h++, got += d + 2, wanted += d + 2) {
    if (wanted[d + 1] == 0.0f) {
      ASSERT_EQ(got[d], -kInfinity) << what;
      ASSERT_EQ(got[d + 1], 0.0f) << what;
      for (int i = 0; i < d; i++) ASSERT_EQ(got[i], 0.0f) << what;
      continue;
    }
    const double error = 2 * score_error(s, rounding) + (tokens + 40) * kRounding + 2 * rounding;
    ASSERT_NEAR(got[d] + std::log(got[d + 1]), wanted[d] + std::log(wanted[d + 1]),
                error + 2 * kRounding * std::abs(wanted[d]))
        << what;
    for (int i = 0; i < d; i++) {
      ASSERT_NEAR(got[i] / got[d + 1], wanted[i] / wanted[d + 1], error * 40.0) << what << " head " << h << ", " << i;
    }
  }
}

constexpr Shape kShapes[] = {{1, 3, 64},
                             {3, 3, 64},
                             {2, 1, 80},
                             {7, 2, 96},
                             {8, 1, 128},
                             {4, 2, 72},
                             {70, 1, 16},
                             {5, 1, 10},
                             {1, 1, 256},
                             {5, 1, 200},
                             {3, 3, 64, DType::f32},
                             {70, 1, 16, DType::f32},
                             {5, 1, 10, DType::f32},
                             {5, 1, 200, DType::f32}};

// Those that the backend runs.
std::vector<Shape> shapes(const Backend& backend) {
  std::vector<Shape> all(std::begin(kShapes), std::end(kShapes));
  const auto device = backend.make(1);
  std::erase_if(all, [&](const Shape& s) { return !device->ops().why_not(model_shape(s)).empty(); });
  return all;
}

TEST_P(OpGridAttention, AttendMatchesTheReference) {
  SPILLWAY_REQUIRE_OP(attend);
  for (const Shape& s : shapes(GetParam())) {
    const AttendShape shape = attend_shape(s);
    OpBench bench(GetParam(), model_shape(s));
    Kv kv(bench, shape.format, 700);
    BenchMatrix q(bench.device(), DType::f32, 2, query_width(shape), 0, 4);
    q.fill(5);
    q.upload(bench.stream());
    for (int tokens : {1, 15, 16, 17, 63, 64, 65, 200, 511, 512, 700}) {
      const auto here = kv.spans(false, tokens);
      const auto there = kv.spans(true, tokens);
      const auto count = static_cast<int>(here.size());
      BenchMatrix states(bench.device(), DType::f32, count + 2, states_width(shape));
      BenchMatrix wanted(bench.device(), DType::f32, count + 2, states_width(shape));
      std::vector<SpanTask> tasks;
      std::vector<SpanTask> reference_tasks;
      for (int i = 0; i < count; i++) {  // slots out of order, the last one of row 1
        tasks.push_back({there[i], i == count - 1 ? 1 : 0, count - i});
        reference_tasks.push_back({here[i], i == count - 1 ? 1 : 0, count - i});
      }
      tasks.push_back({KvSpan{}, 0, 0});  // empty
      reference_tasks.push_back({KvSpan{}, 0, 0});
      bench.reference(
          [&](Ops& ops, Stream& stream) { ops.attend(stream, q.here(), shape, reference_tasks, wanted.here()); });
      bench.ops().attend(bench.stream(), q.there(), shape, tasks, states.there());
      states.download(bench.stream());
      for (int i = 0; i <= count; i++) {
        expect_states(
            shape, states.row(i), wanted.row(i), tokens,
            std::to_string(s.head_dim) + " x " + std::to_string(s.group) + ", " + std::to_string(tokens) + " tokens");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OpGridAttention, AttendWithinAWindow) {
  SPILLWAY_REQUIRE_OP(attend);
  for (const Shape& s : {Shape{3, 3, 64}, Shape{1, 2, 128}, Shape{4, 1, 256}, Shape{3, 2, 80, DType::f32}}) {
    const AttendShape shape = attend_shape(s);
    OpBench bench(GetParam(), model_shape(s));
    Kv kv(bench, shape.format, 500);
    BenchMatrix q(bench.device(), DType::f32, 1, query_width(shape));
    q.fill(5);
    q.upload(bench.stream());
    const KvSpan here = kv.spans(false, 500).front(), there = kv.spans(true, 500).front();
    for (int first : {0, 1, 63, 64, 100, 128, 499, 500}) {
      BenchMatrix states(bench.device(), DType::f32, 1, states_width(shape));
      BenchMatrix wanted(bench.device(), DType::f32, 1, states_width(shape));
      const SpanTask task{there, 0, 0, first}, reference_task{here, 0, 0, first};
      bench.reference([&](Ops& ops, Stream& stream) {
        ops.attend(stream, q.here(), shape, {&reference_task, 1}, wanted.here());
      });
      bench.ops().attend(bench.stream(), q.there(), shape, {&task, 1}, states.there());
      states.download(bench.stream());
      expect_states(shape, states.row(0), wanted.row(0), 500 - first, "from token " + std::to_string(first));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OpGridAttention, AttendChunkWithinAWindow) {
  SPILLWAY_REQUIRE_OP(attend_chunk);
  for (const Shape& s :
       {Shape{3, 3, 64}, Shape{2, 1, 80}, Shape{1, 2, 128}, Shape{4, 1, 256}, Shape{2, 1, 72, DType::f32}}) {
    AttendShape shape = attend_shape(s);
    OpBench bench(GetParam(), model_shape(s));
    const int first = 560, rows = 90, tokens = first + rows;  // the second span's start is within the rows' windows
    Kv kv(bench, shape.format, tokens);
    BenchMatrix q(bench.device(), DType::f32, rows, query_width(shape));
    q.fill(6);
    q.upload(bench.stream());
    for (int window : {1, 20, 64, 65, 200, 700}) {
      shape.window = window;
      BenchMatrix states(bench.device(), DType::f32, rows, states_width(shape));
      BenchMatrix wanted(bench.device(), DType::f32, rows, states_width(shape));
      bench.reference([&](Ops& ops, Stream& stream) {
        ops.attend_chunk(stream, q.here(), first, shape, kv.spans(false, tokens), wanted.here(), true);
      });
      const auto spans = kv.spans(true, tokens);
      for (size_t i = 0; i < spans.size(); i++) {
        bench.ops().attend_chunk(bench.stream(), q.there(), first, shape, {&spans[i], 1}, states.there(), i == 0);
      }
      states.download(bench.stream());
      for (int r = 0; r < rows; r++) {
        expect_states(shape, states.row(r), wanted.row(r), std::min(window, tokens),
                      "window of " + std::to_string(window) + ", row " + std::to_string(r),
                      query_rounding(GetParam(), s));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OpGridAttention, AttendChunkMatchesTheReference) {
  SPILLWAY_REQUIRE_OP(attend_chunk);
  struct Chunk {
    int first;
    int rows;
  };
  for (const Shape& s : shapes(GetParam())) {
    const AttendShape shape = attend_shape(s);
    OpBench bench(GetParam(), model_shape(s));
    // Mid-span, over a span's end, over a page's end, one row, from nothing.
    for (const Chunk& c : {Chunk{0, 1}, Chunk{0, 70}, Chunk{100, 33}, Chunk{480, 70}, Chunk{630, 1}, Chunk{512, 40}}) {
      const int tokens = c.first + c.rows;
      Kv kv(bench, shape.format, tokens);
      BenchMatrix q(bench.device(), DType::f32, c.rows, query_width(shape), 4, 8);
      BenchMatrix states(bench.device(), DType::f32, c.rows, states_width(shape), 8, 12);
      BenchMatrix wanted(bench.device(), DType::f32, c.rows, states_width(shape));
      q.fill(6);
      q.upload(bench.stream());
      bench.reference([&](Ops& ops, Stream& stream) {
        ops.attend_chunk(stream, q.here(), c.first, shape, kv.spans(false, tokens), wanted.here(), true);
      });
      const auto spans = kv.spans(true, tokens);
      for (size_t i = 0; i < spans.size(); i++) {  // one call for each span, as they arrive
        bench.ops().attend_chunk(bench.stream(), q.there(), c.first, shape, {&spans[i], 1}, states.there(), i == 0);
      }
      states.download(bench.stream());
      for (int r = 0; r < c.rows; r++) {
        expect_states(shape, states.row(r), wanted.row(r), tokens,
                      std::to_string(s.head_dim) + " x " + std::to_string(s.group) + ", row " + std::to_string(r) +
                          " from " + std::to_string(c.first),
                      query_rounding(GetParam(), s));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OpGridAttention, MergeMatchesTheReference) {
  SPILLWAY_REQUIRE_OP(merge);
  for (const Shape& s : shapes(GetParam())) {
    const AttendShape shape = attend_shape(s);
    const int d = s.head_dim;
    OpBench bench(GetParam(), model_shape(s));
    constexpr int kSlots = 70;
    BenchMatrix states(bench.device(), DType::f32, kSlots, states_width(shape), 4, 4);
    BenchMatrix out(bench.device(), DType::f32, 6, query_width(shape));
    BenchMatrix wanted(bench.device(), DType::f32, 6, query_width(shape));
    states.fill(7);
    out.fill(8);
    for (int slot = 0; slot < kSlots; slot++) {
      for (int h = 0; h < shape.heads; h++) {
        float* state = states.row(slot) + h * attn_state_floats(d);
        state[d] = 30.0f * state[d];
        state[d + 1] = 1.0f + std::abs(state[d + 1]);
        if (slot < 2 || (slot + h) % 11 == 0) {
          std::fill_n(state, d + 2, 0.0f);
          state[d] = -kInfinity;
        }
      }
    }
    // All empty, none at all, one, a few, many.
    const std::vector<MergeTask> tasks = {{0, 0, 2}, {1, 5, 0}, {2, 3, 1}, {4, 0, 5}, {5, 0, kSlots}};
    states.upload(bench.stream());
    out.upload(bench.stream());
    bench.reference([&](Ops& ops, Stream& stream) { ops.merge(stream, states.here(), shape, tasks, wanted.here()); });
    bench.ops().merge(bench.stream(), states.there(), shape, tasks, out.there());
    out.download(bench.stream());
    for (const MergeTask& task : tasks) {
      for (int64_t i = 0; i < query_width(shape); i++) {
        // Weights of up to exp(-100) of large terms: two roundings for each fold, of terms of up to 4 times the weight.
        ASSERT_NEAR(out.row(task.row)[i], wanted.row(task.row)[i], (4.0 * task.count + 16) * 4 * kRounding)
            << task.row << ", " << i;
      }
    }
    for (int64_t i = 0; i < query_width(shape); i++) {
      ASSERT_EQ(out.row(0)[i], 0.0f);
      ASSERT_EQ(out.row(1)[i], 0.0f);
    }
  }
}

// ---- a row's result never depends on its company

// Rows [first, first + count) of a prompt, prefilled `chunk` rows at a time, merged.
std::vector<float> prefill(OpBench& bench, Kv& kv, const AttendShape& shape, BenchMatrix& q, int tokens, int chunk) {
  std::vector<float> all;
  for (int first = 0; first < tokens; first += chunk) {
    const int rows = std::min(chunk, tokens - first);
    BenchMatrix states(bench.device(), DType::f32, rows, states_width(shape));
    BenchMatrix out(bench.device(), DType::f32, rows, query_width(shape));
    bench.ops().attend_chunk(bench.stream(), q.there().slice_rows(first, rows), first, shape,
                             kv.spans(true, first + rows), states.there(), true);
    std::vector<MergeTask> tasks;
    for (int r = 0; r < rows; r++) tasks.push_back({r, r, 1});
    bench.ops().merge(bench.stream(), states.there(), shape, tasks, out.there());
    out.download(bench.stream());
    for (int r = 0; r < rows; r++) all.insert(all.end(), out.row(r), out.row(r) + query_width(shape));
  }
  return all;
}

// The last row of a prompt of `tokens`, decoded.
std::vector<float> decode(OpBench& bench, Kv& kv, const AttendShape& shape, BenchMatrix& q, int tokens) {
  const auto spans = kv.spans(true, tokens);
  const auto count = static_cast<int>(spans.size());
  BenchMatrix states(bench.device(), DType::f32, count, states_width(shape));
  BenchMatrix out(bench.device(), DType::f32, 1, query_width(shape));
  const int first = shape.window > 0 ? std::max(0, tokens - shape.window) : 0;
  for (int i = count - 1; i >= 0; i--) {  // as they arrive
    const int hidden = std::clamp(first - spans[i].first_position, 0, spans[i].tokens);
    const SpanTask task{spans[i], tokens - 1, i, hidden};
    bench.ops().attend(bench.stream(), q.there(), shape, {&task, 1}, states.there());
  }
  const MergeTask merge{0, 0, count};
  bench.ops().merge(bench.stream(), states.there(), shape, {&merge, 1}, out.there());
  out.download(bench.stream());
  return {out.row(0), out.row(0) + query_width(shape)};
}

TEST_P(OpGridAttention, AttentionDoesNotDependOnChunksNorThreads) {
  SPILLWAY_REQUIRE_OP(attend_chunk);
  SPILLWAY_REQUIRE_OP(merge);
  const int kTokens = GetParam().emulated ? 150 : 600;
  for (const Shape& s : {Shape{3, 2, 64}, Shape{5, 1, 72}, Shape{1, 1, 256}, Shape{3, 1, 72, DType::f32}}) {
    const AttendShape shape = attend_shape(s);
    std::vector<float> first;
    for (int threads : {1, 2, 3}) {
      OpBench bench(GetParam(), model_shape(s), 1, threads);
      Kv kv(bench, shape.format, kTokens);
      BenchMatrix q(bench.device(), DType::f32, kTokens, query_width(shape));
      q.fill(6);
      q.upload(bench.stream());
      const std::vector<float> whole = prefill(bench, kv, shape, q, kTokens, kTokens);
      if (first.empty()) first = whole;
      ASSERT_TRUE(whole == first) << threads << " threads";
      for (int chunk : {37, 64}) ASSERT_TRUE(prefill(bench, kv, shape, q, kTokens, chunk) == first) << chunk << " rows";
    }
  }
}

TEST_P(OpGridAttention, DecodeTakesTheStepsOfPrefill) {
  SPILLWAY_REQUIRE_OP(attend);
  SPILLWAY_REQUIRE_OP(attend_chunk);
  SPILLWAY_REQUIRE_OP(merge);
  if (!GetParam().decodes_as_prefill) GTEST_SKIP() << GetParam().name << " has kernels of its own for decoding";
  constexpr int kTokens = 1100;
  for (const Shape& s : {Shape{3, 2, 64}, Shape{8, 1, 40}, Shape{3, 1, 64, DType::f32}, Shape{2, 1, 40, DType::f32}}) {
    AttendShape shape = attend_shape(s);
    OpBench bench(GetParam(), model_shape(s));
    Kv kv(bench, shape.format, kTokens);
    BenchMatrix q(bench.device(), DType::f32, kTokens, query_width(shape));
    q.fill(6);
    q.upload(bench.stream());
    for (const int window : {0, 1, 70, 600}) {
      shape.window = window;
      const std::vector<float> whole = prefill(bench, kv, shape, q, kTokens, kTokens);
      for (int tokens : {1, 16, 64, 65, 511, 512, 513, 1024, 1100}) {
        const std::vector<float> last = decode(bench, kv, shape, q, tokens);
        ASSERT_EQ(
            std::memcmp(last.data(), whole.data() + (tokens - 1) * query_width(shape), last.size() * sizeof(float)), 0)
            << tokens << " tokens, window " << window;
      }
    }
  }
}

// What lies in the future of a row, or has left its window, does not reach it, even if it is no number; what it sees
// does.
void expect_unseen_is_left_out(OpBench& bench, const AttendShape& shape, bool in_keys) {
  constexpr int kTokens = 90, kNaN = 70;
  const int d = shape.format.head_dim;
  BenchMatrix q(bench.device(), DType::f32, kTokens, query_width(shape));
  q.fill(6);
  q.upload(bench.stream());
  BenchMatrix k(bench.device(), DType::f32, kTokens, d);
  BenchMatrix v(bench.device(), DType::f32, kTokens, d);
  k.fill(1);
  v.fill(2);
  std::fill_n(v.row(kNaN), d, std::numeric_limits<float>::quiet_NaN());
  if (in_keys) std::fill_n(k.row(kNaN), d, std::numeric_limits<float>::quiet_NaN());
  BenchBytes pages(bench.device(), 2 * shape.format.row_of_pages_bytes());
  const auto runs = [&](std::byte* base) {
    return std::vector<AppendRun>{{base, 0, 0, 64}, {base + shape.format.row_of_pages_bytes(), 0, 64, 26}};
  };
  bench.reference(
      [&](Ops& ops, Stream& stream) { ops.append(stream, k.here(), v.here(), shape.format, runs(pages.here())); });
  pages.upload(bench.stream());
  KvSpan span;
  span.tokens = kTokens;
  span.rows[0] = pages.there();
  span.rows[1] = pages.there() + shape.format.row_of_pages_bytes();
  BenchMatrix states(bench.device(), DType::f32, kTokens, states_width(shape));
  bench.ops().attend_chunk(bench.stream(), q.there(), 0, shape, {&span, 1}, states.there(), true);
  states.download(bench.stream());
  for (int r = 0; r < kTokens; r++) {
    const bool sees = r >= kNaN && (shape.window == 0 || r < kNaN + shape.window);
    for (int64_t i = 0; i < states_width(shape); i++) {
      if (!sees) {
        ASSERT_TRUE(std::isfinite(states.row(r)[i])) << r << ", " << i;
      } else if (i % attn_state_floats(d) < d) {
        ASSERT_TRUE(std::isnan(states.row(r)[i])) << r << ", " << i;
      }
    }
  }
}

TEST_P(OpGridAttention, AttendChunkDoesNotSeeTheFuture) {
  SPILLWAY_REQUIRE_OP(attend_chunk);
  for (const Shape& s : {Shape{2, 1, 64}, Shape{1, 1, 256}}) {
    for (const DType type : {DType::f16, DType::f32}) {
      AttendShape shape = attend_shape(s);
      shape.format.dtype = type;
      OpBench bench(GetParam(), model_shape(s));
      for (const int window : {0, 10}) {
        for (const bool in_keys : {false, true}) {
          SCOPED_TRACE(std::string(info(type).name) + ", head_dim " + std::to_string(s.head_dim) + ", window " +
                       std::to_string(window) + (in_keys ? ", keys too" : ""));
          shape.window = window;
          expect_unseen_is_left_out(bench, shape, in_keys);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridAttention);

}  // namespace
}  // namespace spillway
