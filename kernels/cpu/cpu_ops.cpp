#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "kernels/cpu/attention_columns.h"
#include "kernels/cpu/attention_sums.h"
#include "kernels/cpu/candidates.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/cpu/expert_routes.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/key_bounds.h"
#include "kernels/cpu/key_scores.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/pack_page.h"
#include "kernels/cpu/selection.h"
#include "kernels/op_checks.h"
#include "kernels/selection_checks.h"
#include "kernels/super_blocks.h"

namespace spillway {
namespace {

constexpr int64_t kElementsPerTask = 16384;  // of work that takes some microseconds, as waking the team does
constexpr int64_t kElementsPerExp = 16;      // that an exponential takes as long as
constexpr uint64_t kScratchAlignment = 64;

uint64_t align_up(uint64_t n) { return (n + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }
int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

class CpuOps final : public Ops {
 public:
  CpuOps(Team& team, const CpuKernels& kernels) : team_(team), kernels_(kernels) {}

  const char* name() const override { return kernels_.name; }

  uint64_t scratch_bytes(const ModelShape& shape, int rows) const override {
    const int64_t k = std::max({shape.hidden, shape.q_width(), shape.ffn, shape.expert_ffn});
    return align_up(act_bytes(rows, div_up(k, 32) * 32)) + kScratchAlignment +
           static_cast<uint64_t>(team_.workers()) * worker_bytes(div_up(k, 32) * 32, shape.head_dim);
  }

  void set_scratch(const ModelShape&, std::byte* data, uint64_t bytes) override {
    SPILLWAY_CHECK(data == nullptr || scratch_ == nullptr);  // one user at a time
    const uint64_t skip = align_up(reinterpret_cast<uintptr_t>(data)) - reinterpret_cast<uintptr_t>(data);
    SPILLWAY_CHECK(bytes >= skip);
    scratch_ = data + skip;
    scratch_bytes_ = bytes - skip;
  }

  void dequantize(Stream& stream, View rows, View out) override {
    check_dequantize(rows, out);
    enqueue(stream, "dequantize",
            [=, this] { each_row(rows.rows, rows.cols, [&](int64_t i) { dequantize_row(rows, i, out.f32(i)); }); });
  }

  void norm(Stream& stream, View x, View weight, float eps, View out) override {
    check_norm(x, weight, out);
    enqueue(stream, "norm", [=, this] {
      each_row(x.rows, x.cols, [&](int64_t i) { kernels_.norm(x.f32(i), weight.f32(), eps, x.cols, out.f32(i)); });
    });
  }

  void layer_norm(Stream& stream, View x, View weight, View bias, float eps, View out) override {
    check_norm(x, weight, out);
    SPILLWAY_CHECK(is_f32(bias, 1, x.cols));
    enqueue(stream, "layer_norm", [=, this] {
      each_row(x.rows, x.cols,
               [&](int64_t i) { kernels_.layer_norm(x.f32(i), weight.f32(), bias.f32(), eps, x.cols, out.f32(i)); });
    });
  }

  void add(Stream& stream, View x, View y) override {
    check_add(x, y);
    enqueue(stream, "add", [=, this] {
      each_row(x.rows, x.cols, [&](int64_t i) { kernels_.add(x.f32(i), y.f32(y.rows == 1 ? 0 : i), x.cols); });
    });
  }

  void scale(Stream& stream, View x, float factor) override {
    SPILLWAY_CHECK(is_f32(x, x.rows, x.cols));
    enqueue(stream, "scale",
            [=, this] { each_row(x.rows, x.cols, [&](int64_t i) { kernels_.scale(x.f32(i), factor, x.cols); }); });
  }

  void matmul(Stream& stream, View x, std::span<const MatmulPart> parts) override {
    check_matmul(x, parts);
    MatmulCall call;
    call.x = x;
    for (const MatmulPart& part : parts) {
      SPILLWAY_CHECK(part.weight.stride <= kMostWeightStride);
      call.parts[call.count++] = part;
    }
    const MatmulScratch scratch = scratch_of(x.rows, x.cols);
    enqueue(stream, "matmul", [=, this] {
      const std::lock_guard lock(scratch_in_use_);
      run_matmul(kernels_, team_, call, scratch);
    });
  }

  void rotate(Stream& stream, View x, int head_dim, RotationStyle style, View table) override {
    check_rotate(x, head_dim, table);
    enqueue(stream, "rotate", [=, this] {
      each_row(x.rows, x.cols, [&](int64_t i) {
        kernels_.rotate(x.f32(i), static_cast<int>(x.cols / head_dim), head_dim, style, table.f32(i),
                        static_cast<int>(table.cols / 2));
      });
    });
  }

  void append(Stream& stream, View k, View v, const KvFormat& format, std::span<const AppendRun> runs) override {
    SPILLWAY_CHECK(format.dtype == DType::f16 || format.dtype == DType::f32);
    const int64_t longest = check_append(k, v, format, runs);
    enqueue(stream, "append", [=, this, copies = std::vector<AppendRun>(runs.begin(), runs.end())] {
      each_row(static_cast<int64_t>(copies.size()) * format.kv_heads, longest * format.head_dim * 2, [&](int64_t i) {
        append_head(k, v, format, copies[i / format.kv_heads], static_cast<int>(i % format.kv_heads));
      });
    });
  }

  void seal(Stream& stream, const KvFormat& format, std::span<const SealRun> runs) override {
    check_seal(format);
    SPILLWAY_CHECK(format.head_dim <= kMostHeadDim);
    enqueue(stream, "seal", [=, this, copies = std::vector<SealRun>(runs.begin(), runs.end())] {
      const PackedPage packed = format.packed_page();
      const int64_t heads = format.kv_heads;
      each_row(static_cast<int64_t>(copies.size()) * heads, int64_t{2} * kPageTokens * format.head_dim, [&](int64_t i) {
        const SealRun& run = copies[i / heads];
        pack_page(kernels_, packed, run.from + i % heads * format.page_bytes(), run.to + i % heads * packed.bytes());
      });
    });
  }

  void attend(Stream& stream, View q, const AttendShape& shape, std::span<const SpanTask> tasks, View states) override {
    check_attend(q, shape, tasks, states);
    check_heads(shape);
    enqueue(stream, "attend", [=, this, copies = std::vector<SpanTask>(tasks.begin(), tasks.end())] {
      const std::lock_guard lock(scratch_in_use_);
      const AttentionColumns columns(shape);
      run_tasks(static_cast<int64_t>(copies.size()) * columns.count, [&](int64_t index, int worker) {
        const SpanTask& task = copies[index / columns.count];
        AttentionTile tile = columns.tile(shape, index % columns.count, q.slice_rows(task.row, 1),
                                          states.slice_rows(task.slot, 1), worker_floats(worker, shape));
        tile.spans = &task.span;
        tile.span_count = 1;
        const int seen = task.span.tokens - task.first_token;
        tile.first_position = task.span.first_position + (seen > 0 ? task.span.tokens : 0) - 1;
        tile.window = task.first_token > 0 ? seen : 0;
        kernels_.attend(tile);
      });
    });
  }

  void attend_chunk(Stream& stream, View q, int first_position, const AttendShape& shape, std::span<const KvSpan> spans,
                    View states, bool fresh) override {
    check_attend_chunk(q, shape, spans, states);
    check_heads(shape);
    enqueue(stream, "attend_chunk", [=, this, copies = std::vector<KvSpan>(spans.begin(), spans.end())] {
      const std::lock_guard lock(scratch_in_use_);
      const AttentionColumns columns(shape);
      const int64_t rows_per_task = kTileQueries / columns.piece;
      const int64_t blocks = div_up(q.rows, rows_per_task);
      run_tasks(blocks * columns.count, [&](int64_t index, int worker) {
        const int64_t row = (blocks - 1 - index / columns.count) * rows_per_task;  // the longest first
        const int64_t rows = std::min(rows_per_task, q.rows - row);
        AttentionTile tile = columns.tile(shape, index % columns.count, q.slice_rows(row, rows),
                                          states.slice_rows(row, rows), worker_floats(worker, shape));
        tile.spans = copies.data();
        tile.span_count = static_cast<int64_t>(copies.size());
        tile.first_position = static_cast<int>(first_position + row);
        tile.window = shape.window;
        tile.fresh = fresh;
        kernels_.attend_chunk(tile);
      });
    });
  }

  void merge(Stream& stream, View states, const AttendShape& shape, std::span<const MergeTask> tasks,
             View out) override {
    check_merge(states, shape, tasks, out);
    int64_t most = 1;
    for (const MergeTask& task : tasks) most = std::max<int64_t>(most, task.count);
    enqueue(stream, "merge", [=, this, copies = std::vector<MergeTask>(tasks.begin(), tasks.end())] {
      const int d = shape.format.head_dim;
      each_row(static_cast<int64_t>(copies.size()) * shape.heads, most * d, [&](int64_t i) {
        const MergeTask& task = copies[i / shape.heads];
        const int64_t head = i % shape.heads;
        const float* first = task.count > 0 ? states.f32(task.first_slot) + head * attn_state_floats(d) : nullptr;
        kernels_.merge(first, states.stride, task.count, d, out.f32(task.row) + head * d);
      });
    });
  }

  void partial_keys(Stream& stream, const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                    std::span<const PartialKeyRun> runs) override {
    check_partial_keys(kv, format, basis, runs);
    SPILLWAY_CHECK(kv.head_dim <= kMostHeadDim && team_.workers() * worker_bytes(0, kv.head_dim) <= scratch_bytes_);
    enqueue(stream, "partial_keys", [=, this, copies = std::vector<PartialKeyRun>(runs.begin(), runs.end())] {
      const std::lock_guard lock(scratch_in_use_);
      run_tasks(static_cast<int64_t>(copies.size()) * kv.kv_heads, [&](int64_t i, int worker) {
        spillway::partial_keys(kernels_, kv, format, basis, copies[i / kv.kv_heads], static_cast<int>(i % kv.kv_heads),
                               worker_floats(worker, kv.head_dim));
      });
    });
  }

  void score_keys(Stream& stream, View q, const AttendShape& shape, const PartialKeyFormat& format,
                  const PartialKeyBasis& basis, std::span<const std::byte* const> rows, int tokens, int granule_tokens,
                  View scores, View weights) override {
    check_score_keys({q, shape, format, basis, rows, tokens, granule_tokens, scores, weights});
    const int d = shape.format.head_dim;
    SPILLWAY_CHECK(d <= kMostHeadDim && team_.workers() * worker_bytes(0, d) <= scratch_bytes_);
    ScoreKeysCall call{q, shape, format, basis, {rows.begin(), rows.end()}, tokens, granule_tokens, scores, weights};
    enqueue(stream, "score_keys", [this, d, call = std::move(call)] {
      const std::lock_guard lock(scratch_in_use_);
      run_score_keys(kernels_, team_, call, {scratch_, worker_bytes(0, d)});
    });
  }

  void key_bounds(Stream& stream, const KvFormat& kv, int granule_tokens,
                  std::span<const PartialKeyRun> runs) override {
    check_key_bounds(kv, granule_tokens, runs);
    SPILLWAY_CHECK(kv.head_dim <= kMostHeadDim);
    enqueue(stream, "key_bounds", [=, this, copies = std::vector<PartialKeyRun>(runs.begin(), runs.end())] {
      const KeyBoundsFormat format{kv.kv_heads, kv.head_dim, granule_tokens};
      each_row(static_cast<int64_t>(copies.size()) * kv.kv_heads, int64_t{kPageTokens} * kv.head_dim, [&](int64_t i) {
        spillway::key_bounds(kernels_, kv, format, copies[i / kv.kv_heads], static_cast<int>(i % kv.kv_heads));
      });
    });
  }

  void score_bounds(Stream& stream, View q, const AttendShape& shape, std::span<const std::byte* const> rows,
                    int tokens, int granule_tokens, View scores, View weights) override {
    check_score_bounds({q, shape, rows, tokens, granule_tokens, scores, weights});
    SPILLWAY_CHECK(shape.format.head_dim <= kMostHeadDim);
    const KeyBoundsFormat format{shape.format.kv_heads, shape.format.head_dim, granule_tokens};
    ScoreBoundsCall call{q, shape, format, {rows.begin(), rows.end()}, scores, weights};
    enqueue(stream, "score_bounds", [this, call = std::move(call)] { run_score_bounds(kernels_, team_, call); });
  }

  void sum_attention(Stream& stream, View q, int first_position, const AttendShape& shape,
                     std::span<const KvSpan> spans, View states, int granule_tokens, View sums) override {
    check_sum_attention(q, shape, spans, states, granule_tokens, sums);
    check_heads(shape);
    SumAttentionCall call{q, first_position, shape, {spans.begin(), spans.end()}, states, granule_tokens, sums};
    enqueue(stream, "sum_attention", [this, call = std::move(call)] {
      const std::lock_guard lock(scratch_in_use_);
      run_sum_attention(kernels_, team_, call, [&](int worker) { return worker_floats(worker, call.shape); });
    });
  }

  void sum_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View ids, View states,
                    int tokens, View sums) override {
    check_sum_selected({q, shape, kv, ids, states, tokens, sums});
    check_heads(shape);
    enqueue(stream, "sum_selected", [this, call = SumSelectedCall{q, shape, kv, ids, states, tokens, sums}] {
      const std::lock_guard lock(scratch_in_use_);
      run_tasks(call.shape.format.kv_heads, [&](int64_t head, int worker) {
        sum_head(kernels_, call, static_cast<int>(head), worker_floats(worker, call.shape));
      });
    });
  }

  void choose_granules(Stream& stream, View weights, const GranuleChoice& choice, View ids) override {
    check_choose_granules(weights, choice, ids);
    enqueue(stream, "choose_granules", [=, this] {
      each_row(ids.rows, int64_t{4} * choice.granules, [&](int64_t head) {
        spillway::choose_granules(weights.f32(head), choice, reinterpret_cast<int32_t*>(ids.row(head)));
      });
    });
  }

  void attend_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View states) override {
    check_attend_selected(q, shape, kv, states);
    check_heads(shape);
    enqueue(stream, "attend_selected", [=, this] {
      const std::lock_guard lock(scratch_in_use_);
      const AttentionColumns columns(shape);
      run_tasks(kv.states() * columns.count, [&](int64_t index, int worker) {
        const int64_t state = index / columns.count, column = index % columns.count;
        AttentionTile tile = columns.tile(shape, column, q, states.slice_rows(state, 1), worker_floats(worker, shape));
        const int64_t first = state * kv.granules_per_state();
        auto count = static_cast<int>(std::min<int64_t>(kv.granules_per_state(), kv.granules - first));
        tile.places = kv.places + column / columns.pieces * kv.granules + first;
        while (count > 0 && tile.places[count - 1].tokens == 0) count--;
        tile.granule_tokens = kv.granule_tokens;
        KvSpan span;
        span.tokens = count == 0 ? 0 : (count - 1) * kv.granule_tokens + tile.places[count - 1].tokens;
        tile.spans = &span;
        tile.span_count = 1;
        tile.first_position = span.tokens - 1;
        kernels_.attend(tile);
      });
    });
  }

  void activate(Stream& stream, Activation kind, View gate, View up, View out) override {
    check_activate(gate, up, out);
    enqueue(stream, "activate", [=, this] {
      each_row(out.rows, out.cols, [&](int64_t i) {
        kernels_.activate(kind, gate.f32(i), up.rows == 0 ? nullptr : up.f32(i), out.cols, out.f32(i));
      });
    });
  }

  void route(Stream& stream, View logits, View x, bool normalise, const ExpertRoutes& routes, View rows) override {
    check_route(logits, x, routes, rows);
    enqueue(stream, "route", [=, this] {
      each_row(routes.rows, int64_t{routes.experts} * (routes.used + kElementsPerExp),
               [&](int64_t i) { choose_experts(logits.f32(i), normalise, routes, i); });
      deal_out(routes);
      each_row(routes.places(), x.cols, [&](int64_t i) {
        std::memcpy(rows.f32(routes.place()[i]), x.f32(i / routes.used), static_cast<size_t>(x.cols) * sizeof(float));
      });
    });
  }

  // One expert after another, each with the whole team: its rows lie together.
  void experts(Stream& stream, Activation kind, const ExpertRoutes& routes, const ExpertWeights& weights, View rows,
               View gate, View up) override {
    check_experts(routes, weights, rows, gate, up);
    scratch_of(routes.rows, std::max(rows.cols, gate.cols));
    enqueue(stream, "experts",
            [=, this, here = std::vector<ExpertData>(weights.experts.begin(), weights.experts.end())] {
              const std::lock_guard lock(scratch_in_use_);
              for (int e = 0; e < routes.experts; e++) {
                const int64_t first = routes.first()[e], count = routes.first()[e + 1] - first;
                if (count == 0 || !here[e].here()) continue;
                run_expert(kind, here[e], weights,
                           {rows.slice_rows(first, count), gate.slice_rows(first, count), up.slice_rows(first, count)});
              }
            });
  }

  void combine(Stream& stream, const ExpertRoutes& routes, View rows, View x) override {
    check_combine(routes, rows, x);
    enqueue(stream, "combine", [=, this] {
      each_row(routes.rows, x.cols * routes.used, [&](int64_t i) { combine_row(routes, rows, i, x.f32(i), x.cols); });
    });
  }

  void candidates(Stream& stream, View logits, const CandidateChoice& choice, View out) override {
    check_candidates(logits, choice, out);
    enqueue(stream, "candidates",
            [=, this, k = choice.k, penalty = choice.penalty,
             ids = std::vector<int32_t>(choice.penalised.begin(), choice.penalised.end())] {
              each_row(logits.rows, logits.cols, [&](int64_t i) {
                const std::span<float> row(logits.f32(i), static_cast<size_t>(logits.cols));
                penalise(row, ids, penalty);
                choose_candidates(row, k, out.f32(i));
              });
            });
  }

 private:
  template <typename Work>
  static void enqueue(Stream& stream, const char* op, Work&& work) {
    static_cast<CpuStream&>(stream).enqueue(std::forward<Work>(work), op);
  }

  // Rows of blocks without wide instructions: the few rows of an embedding are soon done.
  void dequantize_row(const View& rows, int64_t i, float* out) const {
    if (!is_quantised(rows.dtype)) return kernels_.widen(rows.dtype, rows.row(i), rows.cols, out);
    with_block_type(rows.dtype, [&]<typename Block>(Block) {
      const auto* blocks = reinterpret_cast<const Block*>(rows.row(i));
      for (int64_t b = 0; b < rows.cols / Block::kElements; b++)
        dequantize_block(blocks[b], out + b * Block::kElements);
    });
  }

  struct ExpertRows {
    View rows, gate, up;
  };

  void run_expert(Activation kind, const ExpertData& data, const ExpertWeights& weights, const ExpertRows& r) {
    const auto part = [&](View weight, ExpertData::Matrix which, View out) {
      weight.data = const_cast<std::byte*>(data.matrix[which]);
      return MatmulPart{weight, out};
    };
    MatmulCall in{.x = r.rows,
                  .parts = {part(weights.gate, ExpertData::gate, r.gate), part(weights.up, ExpertData::up, r.up)},
                  .count = 2};
    run_matmul(kernels_, team_, in, scratch_of(r.rows.rows, r.rows.cols));
    each_row(r.gate.rows, r.gate.cols,
             [&](int64_t i) { kernels_.activate(kind, r.gate.f32(i), r.up.f32(i), r.gate.cols, r.gate.f32(i)); });
    MatmulCall out{.x = r.gate, .parts = {part(weights.down, ExpertData::down, r.rows)}, .count = 1};
    run_matmul(kernels_, team_, out, scratch_of(r.gate.rows, r.gate.cols));
  }

  // Piece by piece, so that the sums stay in the first-level cache while the experts' rows pass by.
  static void combine_row(const ExpertRoutes& routes, const View& rows, int64_t row, float* x, int64_t cols) {
    constexpr int64_t kPiece = 1024;
    float sums[kPiece];
    for (int64_t begin = 0; begin < cols; begin += kPiece) {
      const int64_t count = std::min(kPiece, cols - begin);
      std::fill_n(sums, count, 0.0f);
      for (int64_t at = row * routes.used; at < (row + 1) * routes.used; at++) {
        const float weight = routes.weight()[at];
        const float* from = rows.f32(routes.place()[at]) + begin;
        for (int64_t i = 0; i < count; i++) sums[i] += weight * from[i];
      }
      for (int64_t i = 0; i < count; i++) x[begin + i] += sums[i];
    }
  }

  // For products of so many rows of so many columns.
  MatmulScratch scratch_of(int64_t rows, int64_t cols) const {
    const uint64_t x_bytes = align_up(act_bytes(rows, cols));
    const uint64_t bytes_per_worker = worker_bytes(cols, 0);
    SPILLWAY_CHECK(x_bytes + static_cast<uint64_t>(team_.workers()) * bytes_per_worker <= scratch_bytes_);
    return {reinterpret_cast<ActBlock*>(scratch_), scratch_ + x_bytes, bytes_per_worker};
  }

  static uint64_t worker_bytes(int64_t k, int head_dim) {
    const int64_t floats = std::max(partial_key_scratch_floats(head_dim), attention_scratch_floats(head_dim));
    return align_up(std::max(tile_bytes(k), static_cast<uint64_t>(floats) * sizeof(float)));
  }

  float* worker_floats(int worker, int head_dim) const {
    return reinterpret_cast<float*>(scratch_ + worker * worker_bytes(0, head_dim));
  }
  float* worker_floats(int worker, const AttendShape& shape) const {
    return worker_floats(worker, shape.format.head_dim);
  }

  void check_heads(const AttendShape& shape) const {
    SPILLWAY_CHECK(shape.format.dtype == DType::f16 || shape.format.dtype == DType::f32);
    SPILLWAY_CHECK(shape.format.head_dim <= kMostHeadDim);
    SPILLWAY_CHECK(team_.workers() * worker_bytes(0, shape.format.head_dim) <= scratch_bytes_);
  }

  void append_head(const View& k, const View& v, const KvFormat& format, const AppendRun& run, int head) const {
    const uint64_t token_bytes = format.token_bytes();
    std::byte* keys = run.page_row + head * format.page_bytes() + run.first_token * token_bytes;
    std::byte* values = keys + kPageTokens * token_bytes;
    const auto write = [&](const float* from, std::byte* to) {
      if (format.dtype != DType::f32) return kernels_.to_f16(from, format.head_dim, to);
      std::memcpy(to, from, token_bytes);
    };
    for (int i = 0; i < run.count; i++) {
      const int64_t from = int64_t{head} * format.head_dim;
      write(k.f32(run.first_row + i) + from, keys + i * token_bytes);
      write(v.f32(run.first_row + i) + from, values + i * token_bytes);
    }
  }

  template <typename Task>
  void run_tasks(int64_t tasks, const Task& task) {
    if (tasks == 1) {
      task(0, 0);
    } else if (tasks > 1) {
      team_.run(tasks, task);
    }
  }

  // Calls row(i) for each row; with the team only where there is enough of it.
  template <typename Row>
  void each_row(int64_t rows, int64_t elements_per_row, const Row& row) {
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(elements_per_row, 1));
    run_tasks(div_up(rows, rows_per_task), [&](int64_t task, int) {
      const int64_t end = std::min(rows, (task + 1) * rows_per_task);
      for (int64_t i = task * rows_per_task; i < end; i++) row(i);
    });
  }

  Team& team_;
  const CpuKernels& kernels_;
  std::byte* scratch_ = nullptr;
  uint64_t scratch_bytes_ = 0;
  std::mutex scratch_in_use_;  // by one operation at a time, whichever stream it is on
};

const CpuKernels& kernels_for(CpuIsa isa) {
  const CpuIsa widest = widest_isa();
  if (isa == CpuIsa::best) isa = widest;
  if (isa > widest) {
    throw Error(ErrorKind::usage,
                std::string("this CPU lacks ") + (isa == CpuIsa::avx512 ? "AVX-512 with VNNI" : "AVX2 with FMA"));
  }
  return isa == CpuIsa::avx512 ? avx512_kernels() : isa == CpuIsa::avx2 ? avx2_kernels() : scalar_kernels();
}

}  // namespace

CpuIsa widest_isa() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return CpuIsa::scalar;
  }
  const bool wide = __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
  return wide ? CpuIsa::avx512 : CpuIsa::avx2;
}

std::unique_ptr<Ops> make_cpu_ops(Team& team, CpuIsa isa) { return std::make_unique<CpuOps>(team, kernels_for(isa)); }

}  // namespace spillway
