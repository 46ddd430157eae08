// Prefill attention, the merge of states and the writing of pages, run by the emulation, against the reference in
// double.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/kernels/cuda_emulated.h"

namespace spillway {
namespace {

// ---- prefill attention

class CudaAttendChunkTest : public CudaEmulated {
 protected:
  struct Case {
    AttendShape shape;
    std::vector<int> tokens;  // of the spans, which follow one another
    int rows;                 // the last of the tokens
    double scale_of_q = 1.0;
    bool tensor_cores = true;  // where they know the type
  };

  // Tensor cores take queries, times the scale, and weights in the type of the pages.
  static bool rounds(const Case& c) { return c.tensor_cores && c.shape.format.dtype != DType::f32; }
  static double tolerance(const Case& c) {
    if (rounds(c)) return c.shape.format.dtype == DType::f16 ? 1e-3 : 8e-3;
    return c.scale_of_q > 10 ? 4e-5 : 4e-6;
  }
  static void round_queries(const Case& c, const View& q) {
    for (int64_t row = 0; row < q.rows; row++) {
      for (int64_t i = 0; i < q.cols; i++) {
        float& x = q.f32(row)[i];
        const float scaled = x * c.shape.scale;
        x = (c.shape.format.dtype == DType::f16 ? f16_to_f32(f32_to_f16(scaled)) : bf16_to_f32(f32_to_bf16(scaled))) /
            c.shape.scale;
      }
    }
  }

  // One page row after the other in an order of its own for each seed.
  class Pages {
   public:
    Pages(CudaAttendChunkTest& test, const Case& c, int seed)
        : pages_(test.matrix(
              c.shape.format.dtype, static_cast<int64_t>(c.tokens.size()) * kPagesPerSpan,
              static_cast<int64_t>(c.shape.format.row_of_pages_bytes()) / info(c.shape.format.dtype).block_bytes)) {
      const auto rows = static_cast<int>(pages_.host().rows);
      const int step = seed % 2 == 0 ? 5 : 7;  // neither divides the number of rows
      for (int span = 0, position = 0; span < rows / kPagesPerSpan; position += c.tokens[span++]) {
        KvSpan host{.first_position = position, .tokens = c.tokens[span]}, device = host;
        for (int p = 0; p * kPageTokens < host.tokens; p++) {
          const int logical = span * kPagesPerSpan + p;
          const int row = (logical * step + seed) % rows;
          fill_page(c.shape.format, logical, pages_.host().row(row));
          host.rows[p] = pages_.host().row(row);
          device.rows[p] = pages_.device().row(row);
        }
        host_.push_back(host);
        device_.push_back(device);
      }
      pages_.upload(test.stream_);
    }
    std::span<const KvSpan> host() const { return host_; }
    std::span<const KvSpan> device() const { return device_; }

   private:
    static void fill_page(const KvFormat& format, int logical, std::byte* row) {
      const auto elements = static_cast<int64_t>(format.row_of_pages_bytes()) / info(format.dtype).block_bytes;
      fill_random_row(row_bits(7, "page", static_cast<uint64_t>(logical)), format.dtype, elements, 1.0, row);
    }

    DeviceMatrix pages_;
    std::vector<KvSpan> host_, device_;
  };

  static int first_position(const Case& c) {
    int all = 0;
    for (const int tokens : c.tokens) all += tokens;
    return all - c.rows;
  }
  static int64_t q_width(const AttendShape& s) { return static_cast<int64_t>(s.heads) * s.format.head_dim; }
  static int64_t states_width(const AttendShape& s) {
    return static_cast<int64_t>(s.heads) * attn_state_floats(s.format.head_dim);
  }

  void attend(const Case& c, const View& q, int position, std::span<const KvSpan> spans, const View& states,
              bool fresh) {
    const DeviceList<KvSpan> list(table_, stream_, spans);
    const CudaAttendChunk arguments = {.q = q,
                                       .states = states,
                                       .shape = c.shape,
                                       .spans = list.device(),
                                       .spans_count = static_cast<int32_t>(spans.size()),
                                       .first_position = position,
                                       .fresh = fresh};
    expect_fine(table_.attend_chunk(stream_, &arguments));
    expect_fine(table_.synchronize(stream_));
  }

  void compare(const Case& c) {
    const KvFormat& format = c.shape.format;
    SCOPED_TRACE(testing::Message() << info(format.dtype).name << ", head_dim " << format.head_dim << ", group "
                                    << c.shape.heads / format.kv_heads << ", " << format.kv_heads << " KV heads, "
                                    << c.rows << " rows");
    DeviceMatrix q = matrix(DType::f32, c.rows, q_width(c.shape), {.offset = 4, .gap = 4});
    DeviceMatrix states = matrix(DType::f32, c.rows, states_width(c.shape), {.gap = 4});
    DeviceMatrix wanted = matrix(DType::f32, c.rows, states_width(c.shape));
    q.fill(format.head_dim, c.scale_of_q).upload(stream_);
    expect_fine(table_.synchronize(stream_));
    if (rounds(c)) round_queries(c, q.host());
    if (!c.tensor_cores) emulation::set_likeness({.major = 7, .minor = 5});
    const Pages pages(*this, c, 1);
    reference_->ops().attend_chunk(*reference_stream_, q.host(), first_position(c), c.shape, pages.host(),
                                   wanted.host(), true);
    reference_stream_->synchronize();
    attend(c, q.device(), first_position(c), pages.device(), states.device(), true);
    states.download(stream_);
    emulation::set_likeness({});
    for (int row = 0; row < c.rows; row++) {
      for (int head = 0; head < c.shape.heads; head++) {
        SCOPED_TRACE(testing::Message() << "row " << row << ", head " << head);
        compare_state(states.host().f32(row) + head * attn_state_floats(format.head_dim),
                      wanted.host().f32(row) + head * attn_state_floats(format.head_dim), format.head_dim,
                      tolerance(c));
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_F(CudaAttendChunkTest, MatchesTheReference) {
  for (const int head_dim : {8, 64, 80, 96, 128, 200, 256}) {
    compare({attend_shape(DType::f16, head_dim, 2, 3), {70}, 25});
    compare({attend_shape(DType::bf16, head_dim, 1, 1), {65}, 65});
    compare({attend_shape(DType::f32, head_dim, 1, 2), {130}, 3});
  }
  for (const int group : {1, 2, 4, 5, 7, 8, 12}) compare({attend_shape(DType::f16, 64, 1, group), {77}, 19});
  for (const int rows : {1, 15, 16, 17, 31, 33, 64, 100}) compare({attend_shape(DType::f16, 64, 1, 1), {100}, rows});
}

TEST_F(CudaAttendChunkTest, SpansFollowOneAnother) {
  compare({attend_shape(DType::f16, 64, 1, 2), {512, 1}, 3});
  compare({attend_shape(DType::f16, 64, 1, 1), {512, 512, 90}, 40});
  compare({attend_shape(DType::f32, 64, 1, 1), {512, 70}, 80});
  compare({attend_shape(DType::f16, 64, 1, 1), {}, 0});
}

TEST_F(CudaAttendChunkTest, SharpSoftmax) {
  for (const DType type : {DType::f32, DType::f16}) compare({attend_shape(type, 64, 1, 2), {200}, 50, 40.0});
}

TEST_F(CudaAttendChunkTest, PlainWhereTensorCoresLackTheType) {
  compare({attend_shape(DType::bf16, 80, 2, 3), {70}, 25, 1.0, false});
  compare({attend_shape(DType::bf16, 128, 1, 1), {512, 9}, 40, 1.0, false});
}

// Rows that see nothing of the spans keep what they had.
TEST_F(CudaAttendChunkTest, SpansAheadOfARowLeaveItAlone) {
  const Case c{attend_shape(DType::f16, 64, 1, 1), {80}, 20};
  DeviceMatrix q = matrix(DType::f32, 20, 64), states = matrix(DType::f32, 20, states_width(c.shape));
  q.fill(1).upload(stream_);
  const Pages pages(*this, c, 1);
  attend(c, q.device(), -20, pages.device(), states.device(), true);
  states.download(stream_);
  for (int row = 0; row < 20; row++) {
    EXPECT_EQ(states.at(row, 64), -std::numeric_limits<float>::infinity());
    for (int i = 0; i < 66; i++) EXPECT_TRUE(i == 64 || states.at(row, i) == 0.0f);
  }
}

// To the bit: other rows of the call, where pages lie, and which call folds a span enter into nothing.
TEST_F(CudaAttendChunkTest, ARowDependsOnNothingElse) {
  for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
    SCOPED_TRACE(info(type).name);
    const Case c{attend_shape(type, 80, 1, 3), {512, 75}, 40, 3.0};
    DeviceMatrix q = matrix(DType::f32, c.rows, q_width(c.shape));
    DeviceMatrix together = matrix(DType::f32, c.rows, states_width(c.shape));
    DeviceMatrix apart = matrix(DType::f32, c.rows, states_width(c.shape), {.gap = 12});
    q.fill(1, c.scale_of_q).upload(stream_);
    const Pages pages(*this, c, 1), elsewhere(*this, c, 2);
    attend(c, q.device(), first_position(c), pages.device(), together.device(), true);
    together.download(stream_);

    for (size_t span = 0; span < c.tokens.size(); span++) {
      attend(c, q.device(), first_position(c), elsewhere.device().subspan(span, 1), apart.device(), span == 0);
    }
    apart.download(stream_);
    EXPECT_TRUE(same_bits(together, 0, apart, 0, c.rows)) << "a call for each span, and pages elsewhere";

    for (const auto& [first, count] : {std::pair{0, 1}, {39, 1}, {15, 2}, {3, 33}}) {
      // The spans end where the rows do, as they did when these rows were the newest.
      std::vector<KvSpan> seen(pages.device().begin(), pages.device().end());
      const int end = first_position(c) + first + count;
      for (KvSpan& span : seen) span.tokens = std::clamp(end - span.first_position, 0, span.tokens);
      DeviceMatrix some = matrix(DType::f32, count, states_width(c.shape));
      attend(c, q.device().slice_rows(first, count), first_position(c) + first, seen, some.device(), true);
      some.download(stream_);
      EXPECT_TRUE(same_bits(together, first, some, 0, count)) << count << " rows alone";
    }
  }
}

TEST_F(CudaAttendChunkTest, UnknownFormatsAreRefused) {
  for (const KvFormat& format : {KvFormat{.dtype = DType::q8_0, .kv_heads = 1, .head_dim = 64},
                                 KvFormat{.dtype = DType::f16, .kv_heads = 1, .head_dim = 264},
                                 KvFormat{.dtype = DType::f16, .kv_heads = 1, .head_dim = 60}}) {
    DeviceMatrix q = matrix(DType::f32, 1, format.head_dim);
    DeviceMatrix states = matrix(DType::f32, 1, attn_state_floats(format.head_dim));
    const CudaAttendChunk arguments = {
        .q = q.device(), .states = states.device(), .shape = {.format = format, .heads = 1}, .fresh = true};
    EXPECT_NE(table_.attend_chunk(stream_, &arguments), nullptr);
  }
}

// ---- merge

class CudaMergeTest : public CudaEmulated {
 protected:
  // States as attention leaves them; every seventh is empty.
  static void fill_states(const View& states, int heads, int head_dim) {
    fill_random_row(row_bits(3, "states", 0), DType::f32, states.rows * states.cols, 1.0, states.data);
    for (int64_t slot = 0; slot < states.rows; slot++) {
      for (int head = 0; head < heads; head++) {
        float* state = states.f32(slot) + head * attn_state_floats(head_dim);
        state[head_dim] *= 20.0f;
        state[head_dim + 1] = 1.0f + std::abs(state[head_dim + 1]);
        if ((slot + head) % 7 != 0) continue;
        std::fill_n(state, head_dim + 2, 0.0f);
        state[head_dim] = -std::numeric_limits<float>::infinity();
      }
    }
  }

  void compare(int heads, int head_dim, const std::vector<MergeTask>& tasks, int slots, int rows) {
    SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim << ", " << slots << " slots");
    const AttendShape shape = attend_shape(DType::f16, head_dim, heads, 1);
    DeviceMatrix states = matrix(DType::f32, slots, heads * attn_state_floats(head_dim));
    DeviceMatrix out = matrix(DType::f32, rows, heads * head_dim, {.offset = 4, .gap = 4});
    DeviceMatrix wanted = matrix(DType::f32, rows, heads * head_dim);
    fill_states(states.host(), heads, head_dim);
    states.upload(stream_);
    reference_->ops().merge(*reference_stream_, states.host(), shape, tasks, wanted.host());
    reference_stream_->synchronize();
    const DeviceList<MergeTask> list(table_, stream_, tasks);
    const CudaMerge arguments = {.states = states.device(),
                                 .shape = shape,
                                 .tasks = list.device(),
                                 .tasks_count = static_cast<int32_t>(tasks.size()),
                                 .out = out.device()};
    expect_fine(table_.merge(stream_, &arguments));
    out.download(stream_);
    for (const MergeTask& task : tasks) {
      for (int i = 0; i < heads * head_dim; i++) {
        ASSERT_NEAR(out.at(task.row, i), wanted.at(task.row, i), 4e-6 * (1 + std::abs(wanted.at(task.row, i)))) << i;
      }
    }
  }
};

TEST_F(CudaMergeTest, MatchesTheReference) {
  for (const int head_dim : {8, 64, 80, 128, 136, 256}) {
    compare(3, head_dim, {{.row = 1, .first_slot = 2, .count = 5}, {.row = 0, .first_slot = 0, .count = 2}}, 7, 2);
  }
  compare(1, 64, {{.row = 0, .first_slot = 0, .count = 300}, {.row = 1, .first_slot = 3, .count = 129}}, 300, 2);
  compare(2, 64, {{.row = 0, .first_slot = 0, .count = 1}, {.row = 2, .first_slot = 1, .count = 0}}, 2, 3);
  compare(2, 64, {}, 1, 1);
}

// ---- append

class CudaAppendTest : public CudaEmulated {
 protected:
  void compare(const KvFormat& format, int rows, const std::vector<AppendRun>& runs, Placing placing) {
    SCOPED_TRACE(testing::Message() << info(format.dtype).name << ", " << format.kv_heads << " heads of "
                                    << format.head_dim);
    const int64_t width = static_cast<int64_t>(format.kv_heads) * format.head_dim;
    DeviceMatrix k = matrix(DType::f32, rows, width, placing), v = matrix(DType::f32, rows, width, placing);
    DeviceBytes pages(table_, runs.size() * format.row_of_pages_bytes());
    std::vector<std::byte> wanted(pages.bytes(), std::byte{0x5a});
    std::copy(wanted.begin(), wanted.end(), pages.host());
    pages.upload(stream_);
    k.fill(1, 3.0).upload(stream_);
    v.fill(2, 1e-5).upload(stream_);  // halves below the normal range
    std::vector<AppendRun> host_runs = runs, device_runs = runs;
    int longest = 0;
    for (size_t i = 0; i < runs.size(); i++) {
      host_runs[i].page_row = wanted.data() + i * format.row_of_pages_bytes();
      device_runs[i].page_row = pages.device() + i * format.row_of_pages_bytes();
      longest = std::max(longest, runs[i].count);
    }
    reference_->ops().append(*reference_stream_, k.host(), v.host(), format, host_runs);
    reference_stream_->synchronize();
    const DeviceList<AppendRun> list(table_, stream_, device_runs);
    const CudaAppend arguments = {.k = k.device(),
                                  .v = v.device(),
                                  .format = format,
                                  .runs = list.device(),
                                  .runs_count = static_cast<int32_t>(runs.size()),
                                  .rows = longest};
    expect_fine(table_.append(stream_, &arguments));
    pages.download(stream_);
    EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), pages.host()));
  }
};

TEST_F(CudaAppendTest, MatchesTheReferenceToTheBit) {
  for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
    for (const Placing placing : {Placing{}, Placing{.offset = 4, .gap = 4}}) {
      compare({type, 2, 64}, 1, {{.first_token = 63, .first_row = 0, .count = 1}}, placing);
      compare({type, 3, 80}, 70,
              {{.first_token = 60, .first_row = 0, .count = 4},
               {.first_token = 0, .first_row = 4, .count = 64},
               {.first_token = 0, .first_row = 68, .count = 2}},
              placing);
    }
  }
  compare({DType::f16, 9, 128}, 2, {{.first_token = 0, .first_row = 1, .count = 1}, {.first_token = 5}}, {});
  compare({DType::f16, 1, 64}, 0, {}, {});
}

// ---- rotation and append at once

TEST_F(CudaAppendTest, RotatingOnTheWayGivesTheSameBits) {
  struct Case {
    DType type;
    int head_dim, heads, kv_heads, pairs;
    RotationStyle style;
    Placing placing;
  };
  for (const Case& c : {Case{DType::f16, 64, 3, 1, 32, RotationStyle::halves, {}},
                        Case{DType::f16, 80, 4, 2, 20, RotationStyle::halves, {.offset = 4, .gap = 12}},
                        Case{DType::bf16, 128, 2, 2, 64, RotationStyle::adjacent, {}},
                        Case{DType::f32, 72, 2, 1, 35, RotationStyle::adjacent, {.offset = 4}},
                        Case{DType::f16, 256, 2, 1, 128, RotationStyle::halves, {}},
                        Case{DType::f16, 64, 2, 1, 0, RotationStyle::adjacent, {}}}) {
    SCOPED_TRACE(testing::Message() << info(c.type).name << ", " << c.heads << " heads of " << c.head_dim);
    constexpr int kRows = 5;
    const KvFormat format{c.type, c.kv_heads, c.head_dim};
    const int64_t width = static_cast<int64_t>(c.kv_heads) * c.head_dim;
    DeviceMatrix q = matrix(DType::f32, kRows, c.heads * c.head_dim, c.placing);
    DeviceMatrix apart = matrix(DType::f32, kRows, c.heads * c.head_dim, c.placing);
    DeviceMatrix k = matrix(DType::f32, kRows, width, c.placing), v = matrix(DType::f32, kRows, width, c.placing);
    DeviceMatrix table = matrix(DType::f32, kRows, 2 * c.pairs, c.placing);
    DeviceBytes pages(table_, 2 * format.row_of_pages_bytes()), wanted(table_, 2 * format.row_of_pages_bytes());
    q.fill(1).upload(stream_);
    apart.fill(1).upload(stream_);
    k.fill(2).upload(stream_);
    v.fill(3).upload(stream_);
    table.fill(4).upload(stream_);
    for (DeviceBytes* bytes : {&pages, &wanted}) {
      std::fill_n(bytes->host(), bytes->bytes(), std::byte{0x5a});
      bytes->upload(stream_);
    }
    const auto runs = [&](const DeviceBytes& at) {
      return std::vector<AppendRun>{
          {.page_row = at.device(), .first_token = 62, .first_row = 0, .count = 2},
          {.page_row = at.device() + format.row_of_pages_bytes(), .first_token = 0, .first_row = 2, .count = 3}};
    };
    const DeviceList<AppendRun> here(table_, stream_, runs(pages)), there(table_, stream_, runs(wanted));
    const CudaRotateAppend at_once = {.q = q.device(),
                                      .k = k.device(),
                                      .v = v.device(),
                                      .table = table.device(),
                                      .style = c.style,
                                      .format = format,
                                      .runs = here.device(),
                                      .runs_count = 2,
                                      .rows = 3};
    expect_fine(table_.rotate_append(stream_, &at_once));
    for (const View& x : {apart.device(), k.device()}) {
      const CudaRotate rotate = {.x = x, .table = table.device(), .head_dim = c.head_dim, .style = c.style};
      expect_fine(table_.rotate(stream_, &rotate));
    }
    const CudaAppend append = {
        .k = k.device(), .v = v.device(), .format = format, .runs = there.device(), .runs_count = 2, .rows = 3};
    expect_fine(table_.append(stream_, &append));
    q.download(stream_);
    apart.download(stream_);
    pages.download(stream_);
    wanted.download(stream_);
    EXPECT_TRUE(same_bits(q, 0, apart, 0, kRows));
    EXPECT_EQ(std::memcmp(pages.host(), wanted.host(), pages.bytes()), 0);
  }
}

}  // namespace
}  // namespace spillway
