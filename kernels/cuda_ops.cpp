#include "kernels/cuda_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <span>

#include "kernels/blocks.h"
#include "kernels/check.h"
#include "kernels/cuda_calls.h"
#include "kernels/cuda_stream.h"
#include "kernels/op_checks.h"
#include "kernels/selection_checks.h"

namespace spillway {
namespace {

constexpr uint64_t kScratchAlignment = 256;
// The ring of descriptors holds those of a whole step where it can, so that most of them are there already in the next.
constexpr uint64_t kLeastRing = 64 << 10, kMostRing = 4 << 20;

uint64_t align(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

class CudaOps final : public Ops, private CudaCalls {
 public:
  CudaOps(CudaContext& context, bool graphs) : CudaCalls(context, graphs), context_(context) {}

  const char* name() const override { return context_.info().emulated != 0 ? "cuda (emulated)" : "cuda"; }

  std::string why_not(const ModelShape& shape) const override {
    if (shape.head_dim % 8 == 0 && shape.head_dim <= kCudaMostHeadDim) return {};
    return fmt::format("the CUDA kernels know heads of a multiple of 8 up to {} elements, this model has {}",
                       kCudaMostHeadDim, shape.head_dim);
  }

  int few_rows() const override { return kCudaMatvecRows; }

  uint64_t scratch_bytes(const ModelShape& shape, int rows) const override {
    const auto whole = [](int64_t cols) { return static_cast<int64_t>(align(static_cast<uint64_t>(cols), 32)); };
    const uint64_t dense = cuda_matvec_scratch_bytes(rows, whole(std::max({shape.hidden, shape.q_width(), shape.ffn})));
    const uint64_t of_experts =
        cuda_experts_scratch_bytes(int64_t{rows} * shape.experts_used, whole(std::max(shape.hidden, shape.expert_ffn)));
    return kScratchAlignment + ring_bytes(shape) + align(std::max(dense, of_experts), kScratchAlignment);
  }

  void set_scratch(const ModelShape& shape, std::byte* data, uint64_t bytes) override {
    SPILLWAY_CHECK(data == nullptr || !descriptors_.has_ring());  // one user at a time
    const uint64_t address = reinterpret_cast<uintptr_t>(data);
    const uint64_t skip = align(address, kScratchAlignment) - address;
    replay_.forget();
    descriptors_.set_ring(nullptr, 0);
    product_ = nullptr;
    coded_ = {};
    product_bytes_ = 0;
    if (data == nullptr) return;
    const uint64_t ring = ring_bytes(shape);
    SPILLWAY_CHECK(bytes >= skip + ring);
    descriptors_.set_ring(data + skip, ring);
    product_ = data + skip + ring;
    product_bytes_ = bytes - skip - ring;
  }

  void dequantize(Stream& stream, View rows, View out) override {
    check_dequantize(rows, out);
    const CudaDequantize arguments = {.rows = rows, .out = out};
    enqueue(stream, "dequantize", table_.dequantize, arguments);
  }

  void norm(Stream& stream, View x, View weight, float eps, View out) override {
    norm(stream, {.x = x, .weight = weight, .out = out, .eps = eps});
  }
  void norm_for_matmul(Stream& stream, View x, View weight, float eps, View out) override {
    norm(stream, {.x = x, .weight = weight, .out = out, .eps = eps, .codes = room_for_codes(out)});
  }

  void layer_norm(Stream& stream, View x, View weight, View bias, float eps, View out) override {
    check_norm(x, weight, out);
    SPILLWAY_CHECK(is_f32(bias, 1, x.cols));
    const CudaLayerNorm arguments = {.x = x, .weight = weight, .bias = bias, .out = out, .eps = eps};
    enqueue(stream, "layer_norm", table_.layer_norm, arguments);
  }

  void add(Stream& stream, View x, View y) override {
    check_add(x, y);
    const CudaAdd arguments = {.x = x, .y = y};
    enqueue(stream, "add", table_.add, arguments);
  }

  void scale(Stream& stream, View x, float factor) override {
    SPILLWAY_CHECK(is_f32(x, x.rows, x.cols));
    const CudaScale arguments = {.x = x, .factor = factor};
    enqueue(stream, "scale", table_.scale, arguments);
  }

  void matmul(Stream& stream, View x, std::span<const MatmulPart> parts) override {
    coded_ = {};
    matmul_more(stream, x, parts);
  }

  void matmul_more(Stream& stream, View x, std::span<const MatmulPart> parts) override {
    check_matmul(x, parts);
    const CudaMatvec arguments = {.x = x,
                                  .parts = parts.data(),
                                  .parts_count = static_cast<int32_t>(parts.size()),
                                  .scratch = product_,
                                  .scratch_bytes = product_bytes_,
                                  .x_is_ready = is_coded(x)};
    note_codes(x, parts);
    if (x.rows > few_rows()) return enqueue(stream, "matmul", table_.matmul, arguments);
    enqueue(stream, "matvec", table_.matvec, arguments);
  }

  void rotate(Stream& stream, View x, int head_dim, RotationStyle style, View table) override {
    check_rotate(x, head_dim, table);
    const CudaRotate arguments = {.x = x, .table = table, .head_dim = head_dim, .style = style};
    enqueue(stream, "rotate", table_.rotate, arguments);
  }

  void append(Stream& stream, View k, View v, const KvFormat& format, std::span<const AppendRun> runs) override {
    const int32_t longest = check_append(k, v, format, runs);
    CudaAppend arguments = {.k = k, .v = v, .format = format, .runs = nullptr, .runs_count = 0, .rows = longest};
    in_pieces(stream, runs, [&](const AppendRun* there, int32_t count, size_t) {
      arguments.runs = there;
      arguments.runs_count = count;
      enqueue(stream, "append", table_.append, arguments);
    });
  }

  void rotate_append(Stream& stream, const NewTokens& tokens, const KvFormat& format,
                     std::span<const AppendRun> runs) override {
    SPILLWAY_CHECK(tokens.k.rows == tokens.q.rows);
    check_rotate(tokens.q, format.head_dim, tokens.table);
    const int32_t longest = check_append(tokens.k, tokens.v, format, runs);
    CudaRotateAppend arguments = {.q = tokens.q,
                                  .k = tokens.k,
                                  .v = tokens.v,
                                  .table = tokens.table,
                                  .style = tokens.style,
                                  .format = format,
                                  .runs = nullptr,
                                  .runs_count = 0,
                                  .rows = longest};
    in_pieces(stream, runs, [&](const AppendRun* there, int32_t count, size_t) {
      arguments.runs = there;
      arguments.runs_count = count;
      enqueue(stream, "rotate_append", table_.rotate_append, arguments);
    });
  }

  void seal(Stream& stream, const KvFormat& format, std::span<const SealRun> runs) override {
    check_seal(format);
    CudaSeal arguments = {.format = format, .runs = nullptr, .runs_count = 0};
    in_pieces(stream, runs, [&](const SealRun* there, int32_t count, size_t) {
      arguments.runs = there;
      arguments.runs_count = count;
      enqueue(stream, "seal", table_.seal, arguments);
    });
  }

  void attend(Stream& stream, View q, const AttendShape& shape, std::span<const SpanTask> tasks, View states) override {
    check_attend(q, shape, tasks, states);
    CudaAttend arguments = {.q = q, .states = states, .shape = shape, .tasks = nullptr, .tasks_count = 0};
    if (replay_.holds() && !tasks.empty() && attend_counted(stream, tasks, arguments)) return;
    in_pieces(stream, tasks, [&](const SpanTask* there, int32_t count, size_t) {
      arguments.tasks = there;
      arguments.tasks_count = count;
      enqueue(stream, "attend", table_.attend, arguments);
    });
  }

  void attend_chunk(Stream& stream, View q, int first_position, const AttendShape& shape, std::span<const KvSpan> spans,
                    View states, bool fresh) override {
    check_attend_chunk(q, shape, spans, states);
    CudaAttendChunk arguments = {.q = q,
                                 .states = states,
                                 .shape = shape,
                                 .spans = nullptr,
                                 .spans_count = 0,
                                 .first_position = first_position,
                                 .fresh = fresh};
    if (spans.empty()) return enqueue(stream, "attend_chunk", table_.attend_chunk, arguments);
    in_pieces(stream, spans, [&](const KvSpan* there, int32_t count, size_t first) {
      arguments.spans = there;
      arguments.spans_count = count;
      arguments.fresh = fresh && first == 0;
      enqueue(stream, "attend_chunk", table_.attend_chunk, arguments);
    });
  }

  void merge(Stream& stream, View states, const AttendShape& shape, std::span<const MergeTask> tasks,
             View out) override {
    merge(stream, tasks, {.states = states, .shape = shape, .tasks = nullptr, .tasks_count = 0, .out = out});
  }
  // A head of no multiple of 32 shares a block of 32 with the next.
  void merge_for_matmul(Stream& stream, View states, const AttendShape& shape, std::span<const MergeTask> tasks,
                        View out) override {
    std::byte* codes = room_for_codes(shape.format.head_dim % kBlockElements == 0 ? out : View{});
    merge(stream, tasks,
          {.states = states, .shape = shape, .tasks = nullptr, .tasks_count = 0, .out = out, .codes = codes});
  }

  void partial_keys(Stream& stream, const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                    std::span<const PartialKeyRun> runs) override {
    check_partial_keys(kv, format, basis, runs);
    CudaPartialKeys arguments = {
        .kv = kv, .format = format, .basis = basis, .runs = nullptr, .runs_count = 0, .rows = 0};
    for (const PartialKeyRun& run : runs) arguments.rows = std::max(arguments.rows, run.count);
    in_pieces(stream, runs, [&](const PartialKeyRun* there, int32_t count, size_t) {
      arguments.runs = there;
      arguments.runs_count = count;
      enqueue(stream, "partial_keys", table_.partial_keys, arguments);
    });
  }

  void score_keys(Stream& stream, View q, const AttendShape& shape, const PartialKeyFormat& format,
                  const PartialKeyBasis& basis, std::span<const std::byte* const> rows, int tokens, int granule_tokens,
                  View scores, View weights) override {
    check_score_keys({q, shape, format, basis, rows, tokens, granule_tokens, scores, weights});
    CudaScoreKeys arguments = {.q = q,
                               .shape = shape,
                               .format = format,
                               .basis = basis,
                               .granule_tokens = granule_tokens,
                               .scores = scores.data,
                               .scores_stride = scores.stride,
                               .weights = weights.data,
                               .weights_stride = weights.stride};
    score_rows(stream, "score_keys", table_.score_keys, rows, tokens, arguments);
  }

  void key_bounds(Stream& stream, const KvFormat& kv, int granule_tokens,
                  std::span<const PartialKeyRun> runs) override {
    check_key_bounds(kv, granule_tokens, runs);
    CudaKeyBounds arguments = {.kv = kv, .granule_tokens = granule_tokens, .runs = nullptr, .runs_count = 0};
    in_pieces(stream, runs, [&](const PartialKeyRun* there, int32_t count, size_t) {
      arguments.runs = there;
      arguments.runs_count = count;
      enqueue(stream, "key_bounds", table_.key_bounds, arguments);
    });
  }

  void score_bounds(Stream& stream, View q, const AttendShape& shape, std::span<const std::byte* const> rows,
                    int tokens, int granule_tokens, View scores, View weights) override {
    check_score_bounds({q, shape, rows, tokens, granule_tokens, scores, weights});
    CudaScoreBounds arguments = {.q = q,
                                 .shape = shape,
                                 .granule_tokens = granule_tokens,
                                 .scores = scores.data,
                                 .scores_stride = scores.stride,
                                 .weights = weights.data,
                                 .weights_stride = weights.stride};
    score_rows(stream, "score_bounds", table_.score_bounds, rows, tokens, arguments);
  }

  void sum_attention(Stream& stream, View q, int first_position, const AttendShape& shape,
                     std::span<const KvSpan> spans, View states, int granule_tokens, View sums) override {
    check_sum_attention(q, shape, spans, states, granule_tokens, sums);
    CudaSumAttention arguments = {.q = q,
                                  .states = states,
                                  .sums = sums,
                                  .shape = shape,
                                  .spans = nullptr,
                                  .spans_count = 0,
                                  .first_position = first_position,
                                  .granule_tokens = granule_tokens};
    in_pieces(stream, spans, [&](const KvSpan* there, int32_t count, size_t) {
      arguments.spans = there;
      arguments.spans_count = count;
      enqueue(stream, "sum_attention", table_.sum_attention, arguments);
    });
  }

  void sum_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View ids, View states,
                    int tokens, View sums) override {
    check_sum_selected({q, shape, kv, ids, states, tokens, sums});
    const CudaSelectedSums step = {kv, tokens};
    CudaSumSelected arguments = {.q = q,
                                 .shape = shape,
                                 .step = nullptr,
                                 .granules = static_cast<int32_t>(room_for(static_cast<size_t>(sums.cols))),
                                 .ids = ids.data,
                                 .ids_stride = ids.stride,
                                 .states = states.data,
                                 .states_stride = states.stride,
                                 .sums = sums.data,
                                 .sums_stride = sums.stride};
    in_pieces(stream, std::span(&step, 1), [&](const CudaSelectedSums* there, int32_t, size_t) {
      arguments.step = there;
      enqueue(stream, "sum_selected", table_.sum_selected, arguments);
    });
  }

  void choose_granules(Stream& stream, View weights, const GranuleChoice& choice, View ids) override {
    check_choose_granules(weights, choice, ids);
    SPILLWAY_CHECK(choice.granules <= kCudaMostGranules);
    CudaChooseGranules arguments = {.weights = weights.data,
                                    .weights_stride = weights.stride,
                                    .ids = ids.data,
                                    .ids_stride = ids.stride,
                                    .kv_heads = static_cast<int32_t>(ids.rows),
                                    .choice = nullptr};
    in_pieces(stream, std::span(&choice, 1), [&](const GranuleChoice* there, int32_t, size_t) {
      arguments.choice = there;
      enqueue(stream, "choose_granules", table_.choose_granules, arguments);
    });
  }

  void attend_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View states) override {
    check_attend_selected(q, shape, kv, states);
    CudaAttendSelected arguments = {.q = q,
                                    .shape = shape,
                                    .kv = nullptr,
                                    .states_count = static_cast<int32_t>(room_for(static_cast<size_t>(kv.states()))),
                                    .states = states.data,
                                    .states_stride = states.stride};
    if (kv.granules == 0) return;
    in_pieces(stream, std::span(&kv, 1), [&](const SelectedKv* there, int32_t, size_t) {
      arguments.kv = there;
      enqueue(stream, "attend_selected", table_.attend_selected, arguments);
    });
  }

  void activate(Stream& stream, Activation kind, View gate, View up, View out) override {
    activate(stream, {.kind = kind, .gate = gate, .up = up, .out = out});
  }
  void activate_for_matmul(Stream& stream, Activation kind, View gate, View up, View out) override {
    activate(stream, {.kind = kind, .gate = gate, .up = up, .out = out, .codes = room_for_codes(out)});
  }

  void route(Stream& stream, View logits, View x, bool normalise, const ExpertRoutes& routes, View rows) override {
    check_route(logits, x, routes, rows);
    const CudaRoute arguments = {.logits = logits, .x = x, .rows = rows, .routes = routes, .normalise = normalise};
    enqueue(stream, "route", table_.route, arguments);
  }

  void experts(Stream& stream, Activation kind, const ExpertRoutes& routes, const ExpertWeights& weights, View rows,
               View gate, View up) override {
    check_experts(routes, weights, rows, gate, up);
    static_assert(kMostExperts * sizeof(ExpertData) <= kLeastRing);  // one piece
    coded_ = {};
    CudaExperts arguments = {.kind = kind,
                             .routes = routes,
                             .rows = rows,
                             .gate = gate,
                             .up = up,
                             .gate_weight = weights.gate,
                             .up_weight = weights.up,
                             .down_weight = weights.down,
                             .experts = nullptr,
                             .scratch = product_,
                             .scratch_bytes = product_bytes_};
    in_pieces(stream, weights.experts, [&](const ExpertData* there, int32_t, size_t) {
      arguments.experts = there;
      enqueue(stream, "experts", table_.experts, arguments);
    });
  }

  void combine(Stream& stream, const ExpertRoutes& routes, View rows, View x) override {
    check_combine(routes, rows, x);
    const CudaCombine arguments = {.rows = rows, .x = x, .routes = routes};
    enqueue(stream, "combine", table_.combine, arguments);
  }

  void candidates(Stream& stream, View logits, const CandidateChoice& choice, View out) override {
    check_candidates(logits, choice, out);
    static_assert(kMostPenalised * sizeof(int32_t) <= kLeastRing);  // one piece: the penalty comes once
    CudaCandidates arguments = {.logits = logits,
                                .out = out,
                                .penalised = nullptr,
                                .penalised_count = 0,
                                .penalty = choice.penalty,
                                .k = choice.k};
    if (choice.penalised.empty()) return enqueue(stream, "candidates", table_.candidates, arguments);
    in_pieces(stream, choice.penalised, [&](const int32_t* there, int32_t count, size_t) {
      arguments.penalised = there;
      arguments.penalised_count = count;
      enqueue(stream, "candidates", table_.candidates, arguments);
    });
  }

  void begin_layer(Stream& stream, int layer) override {
    auto& device_stream = static_cast<CudaDeviceStream&>(stream);
    if (layer == 0) {
      // A step's descriptors lie where those of the step before lay, or its calls would not be the same.
      device_stream.enqueue_held();
      descriptors_.rewind();
    }
    replay_.begin_layer(device_stream, layer);
  }
  void end_layers() override { replay_.end(); }
  std::string layers_report() const override { return replay_.report(); }

 private:
  void norm(Stream& stream, const CudaNorm& a) {
    check_norm(a.x, a.weight, a.out);
    enqueue(stream, "norm", table_.norm, a);
  }

  void activate(Stream& stream, const CudaActivate& a) {
    check_activate(a.gate, a.up, a.out);
    enqueue(stream, "activate", table_.activate, a);
  }

  void merge(Stream& stream, std::span<const MergeTask> tasks, CudaMerge arguments) {
    check_merge(arguments.states, arguments.shape, tasks, arguments.out);
    in_pieces(stream, tasks, [&](const MergeTask* there, int32_t count, size_t) {
      arguments.tasks = there;
      arguments.tasks_count = count;
      enqueue(stream, "merge", table_.merge, arguments);
    });
  }

  // Of a decode step: what appends and merges, the spans in room for twice as many (attend_counted) in any number of
  // groups, or the rows of partial keys in the same way, which are fewer bytes; and the experts.
  static uint64_t ring_bytes(const ModelShape& shape) {
    const auto spans = static_cast<uint64_t>((shape.context + kSpanTokens - 1) / kSpanTokens);
    const uint64_t of_layer = 8 * kAlignment + spans * (2 * sizeof(SpanTask) + kAlignment) +
                              static_cast<uint64_t>(shape.experts) * sizeof(ExpertData);
    const uint64_t of_step = static_cast<uint64_t>(shape.layers) * of_layer;
    return align(std::clamp(of_step, kLeastRing, kMostRing), kScratchAlignment);
  }

  // Page rows that are scored, beside the number of tokens, rounded up to a power of two.
  template <typename Arguments>
  void score_rows(Stream& stream, const char* what, CudaProblem (*function)(CudaStream, const Arguments*),
                  std::span<const std::byte* const> rows, int tokens, Arguments& arguments) {
    const size_t most = std::bit_floor(descriptors_.bytes() / 2 / sizeof(const std::byte*));
    SPILLWAY_CHECK(most > 0 || rows.empty());
    for (size_t first = 0; first < rows.size(); first += most) {
      const auto piece = rows.subspan(first, std::min(most, rows.size() - first));
      const size_t count = room_for(piece.size());
      std::byte* there = room(stream, kAlignment + count * sizeof(const std::byte*));
      put_counted(stream, there, tokens, piece);
      arguments.rows = reinterpret_cast<const std::byte* const*>(there + kAlignment);
      arguments.tokens = reinterpret_cast<const int32_t*>(there);
      arguments.first_row = static_cast<int32_t>(first);
      arguments.rows_count = static_cast<int32_t>(count);
      arguments.last = first + piece.size() == rows.size();
      enqueue(stream, what, function, arguments);
    }
  }

  // False where a ring cannot hold so many.
  bool attend_counted(Stream& stream, std::span<const SpanTask> tasks, CudaAttend& arguments) {
    const size_t count = room_for(tasks.size());
    const uint64_t bytes = kAlignment + count * sizeof(SpanTask);
    SPILLWAY_CHECK(descriptors_.has_ring());
    if (bytes > descriptors_.bytes()) return false;
    std::byte* there = room(stream, bytes);
    put_counted(stream, there, static_cast<int32_t>(tasks.size()), tasks);
    arguments.tasks = reinterpret_cast<const SpanTask*>(there + kAlignment);
    arguments.tasks_count = static_cast<int32_t>(count);
    arguments.tasks_there = reinterpret_cast<const int32_t*>(there);
    enqueue(stream, "attend", table_.attend, arguments);
    return true;
  }

  bool is_coded(const View& x) const {
    return coded_.data != nullptr && coded_.data == x.data && coded_.rows == x.rows && coded_.cols == x.cols &&
           coded_.stride == x.stride;
  }
  // For the codes of what a product reads next; null where none are to be made.
  std::byte* room_for_codes(const View& out) {
    coded_ = {};
    if (!reads_codes_ || out.data == nullptr || out.cols % kBlockElements != 0) return nullptr;
    if (product_bytes_ < cuda_matvec_scratch_bytes(out.rows, out.cols)) return nullptr;
    coded_ = out;
    return product_;
  }
  // Products of quantised weights leave the codes of x in the scratch; F16 and BF16 on tensor cores take their place.
  void note_codes(const View& x, std::span<const MatmulPart> parts) {
    for (const MatmulPart& part : parts) {
      if (info(part.weight.dtype).block_elements == 1 || part.weight.rows == 0) continue;
      coded_ = x;
      reads_codes_ = true;
    }
    if (x.rows <= few_rows()) return;
    for (const MatmulPart& part : parts) {
      if (part.weight.dtype == DType::f16 || part.weight.dtype == DType::bf16) coded_ = {};
    }
  }

  CudaContext& context_;
  std::byte* product_ = nullptr;  // scratch of the matrix products
  View coded_;                    // what x its codes are of; no data: of none
  bool reads_codes_ = false;      // some weight so far was quantised
  uint64_t product_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(CudaContext& context, bool graphs) {
  return std::make_unique<CudaOps>(context, graphs);
}

}  // namespace spillway
