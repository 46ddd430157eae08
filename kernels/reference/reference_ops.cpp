#include "kernels/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_stream.h"
#include "kernels/op_checks.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/attention_sums.h"
#include "kernels/reference/dequantize.h"
#include "kernels/reference/key_bounds.h"
#include "kernels/reference/packed_page.h"
#include "kernels/reference/selection.h"
#include "kernels/selection_checks.h"

namespace spillway {
namespace {

// Sums over k run in one order for each output, whatever the number of rows. The rows of x are held in groups, as
// [k x kGroup] doubles, only so that a row of the weight is dequantised once for the group.
constexpr int kGroup = 8;

std::vector<double> grouped(const View& x) {
  const int64_t groups = (x.rows + kGroup - 1) / kGroup;
  std::vector<double> values(static_cast<size_t>(groups * x.cols * kGroup), 0.0);
  for (int64_t r = 0; r < x.rows; r++) {
    double* group = values.data() + r / kGroup * x.cols * kGroup;
    for (int64_t k = 0; k < x.cols; k++) group[k * kGroup + r % kGroup] = x.f32(r)[k];
  }
  return values;
}

void matmul_part(const std::vector<double>& x, int64_t rows, const MatmulPart& part) {
  const int64_t k = part.weight.cols;
  std::vector<double> weight(static_cast<size_t>(k));
  for (int64_t n = 0; n < part.weight.rows; n++) {
    load_row(part.weight.dtype, part.weight.row(n), k, weight.data());
    for (int64_t first = 0; first < rows; first += kGroup) {
      const double* group = x.data() + first * k;
      double sums[kGroup] = {};
      for (int64_t i = 0; i < k; i++) {
        for (int r = 0; r < kGroup; r++) sums[r] += weight[i] * group[i * kGroup + r];
      }
      for (int64_t r = first; r < std::min(first + kGroup, rows); r++) {
        float& out = part.out.f32(r)[n];
        out = static_cast<float>(part.add ? out + sums[r - first] : sums[r - first]);
      }
    }
  }
}

void norm_row(const float* x, const float* weight, int64_t cols, double eps, float* out) {
  double squares = 0.0;
  for (int64_t i = 0; i < cols; i++) squares += static_cast<double>(x[i]) * x[i];
  const double root = std::sqrt(squares / static_cast<double>(cols) + eps);
  for (int64_t i = 0; i < cols; i++) out[i] = static_cast<float>(x[i] / root * weight[i]);
}

void layer_norm_row(const float* x, const float* weight, const float* bias, int64_t cols, double eps, float* out) {
  double mean = 0.0, squares = 0.0;
  for (int64_t i = 0; i < cols; i++) mean += x[i];
  mean /= static_cast<double>(cols);
  for (int64_t i = 0; i < cols; i++) squares += (x[i] - mean) * (x[i] - mean);
  const double root = std::sqrt(squares / static_cast<double>(cols) + eps);
  for (int64_t i = 0; i < cols; i++) out[i] = static_cast<float>((x[i] - mean) / root * weight[i] + bias[i]);
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::gelu:
      return x / 2 * (1.0 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::relu:
      return std::max(x, 0.0);
  }
  SPILLWAY_CHECK(false);
}

void rotate_head(float* head, int64_t pairs, RotationStyle style, const float* table) {
  for (int64_t i = 0; i < pairs; i++) {
    float& a = style == RotationStyle::adjacent ? head[2 * i] : head[i];
    float& b = style == RotationStyle::adjacent ? head[2 * i + 1] : head[i + pairs];
    const double cosine = table[2 * i];
    const double sine = table[2 * i + 1];
    const double turned = a * cosine - b * sine;
    b = static_cast<float>(a * sine + b * cosine);
    a = static_cast<float>(turned);
  }
}

void append_run(const View& k, const View& v, const KvFormat& format, const AppendRun& run) {
  for (int i = 0; i < run.count; i++) {
    for (int head = 0; head < format.kv_heads; head++) {
      std::byte* key = run.page_row + head * format.page_bytes() + (run.first_token + i) * format.token_bytes();
      std::byte* value = key + kPageTokens * format.token_bytes();
      const int64_t row = run.first_row + i;
      store_row(format.dtype, k.f32(row) + head * format.head_dim, format.head_dim, key);
      store_row(format.dtype, v.f32(row) + head * format.head_dim, format.head_dim, value);
    }
  }
}

// All ids below `count`, the largest value first, and of equal ones the lowest id.
template <typename ValueOf>
std::vector<int32_t> ids_by_value(int64_t count, const ValueOf& value) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const double left = value(a), right = value(b);
    return left != right ? left > right : a < b;
  });
  return ids;
}

void choose_candidates(const float* logits, int64_t cols, int k, float* out) {
  const auto value = [&](int32_t id) {
    return std::isnan(logits[id]) ? -std::numeric_limits<double>::infinity() : static_cast<double>(logits[id]);
  };
  const std::vector<int32_t> ids = ids_by_value(cols, value);
  double sum = 0.0;
  for (int64_t i = 0; i < cols; i++) sum += std::exp(static_cast<double>(logits[i]) - value(ids[0]));
  for (int i = 0; i < k; i++) {
    out[i] = logits[ids[static_cast<size_t>(i)]];
    std::memcpy(out + k + i, &ids[static_cast<size_t>(i)], sizeof(int32_t));
  }
  out[2 * k] = static_cast<float>(sum);
}

double router_value(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<double>::infinity() : static_cast<double>(logit);
}

// The chosen experts of one row, ascending, and their weights.
void choose_experts(const float* logits, const ExpertRoutes& routes, bool normalise, int32_t* chosen, float* weights) {
  const auto value = [&](int32_t id) { return router_value(logits[id]); };
  std::vector<int32_t> ids = ids_by_value(routes.experts, value);
  const double largest = value(ids[0]);
  const auto share = [&](int32_t id) { return value(id) == largest ? 1.0 : std::exp(value(id) - largest); };
  double sum = 0.0;
  for (int i = 0; i < (normalise ? routes.used : routes.experts); i++) sum += share(ids[static_cast<size_t>(i)]);
  std::sort(ids.begin(), ids.begin() + routes.used);
  for (int i = 0; i < routes.used; i++) {
    chosen[i] = ids[static_cast<size_t>(i)];
    weights[i] = static_cast<float>(share(chosen[i]) / sum);
  }
}

void deal_out(const ExpertRoutes& routes) {
  int32_t place = 0;
  for (int expert = 0; expert < routes.experts; expert++) {
    routes.first()[expert] = place;
    for (int64_t i = 0; i < routes.places(); i++) {
      if (routes.chosen()[i] != expert) continue;
      routes.place()[i] = place;
      routes.expert()[place++] = expert;
    }
  }
  routes.first()[routes.experts] = place;
}

class ReferenceOps final : public Ops {
 public:
  const char* name() const override { return "reference"; }
  uint64_t scratch_bytes(const ModelShape&, int) const override { return 0; }
  void set_scratch(const ModelShape&, std::byte*, uint64_t) override {}

  void dequantize(Stream& stream, View rows, View out) override {
    check_dequantize(rows, out);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < rows.rows; r++) {
        for (int64_t i = 0; i < rows.cols; i++) out.f32(r)[i] = element(rows.dtype, rows.row(r), i);
      }
    });
  }

  void norm(Stream& stream, View x, View weight, float eps, View out) override {
    check_norm(x, weight, out);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < x.rows; r++) norm_row(x.f32(r), weight.f32(), x.cols, eps, out.f32(r));
    });
  }

  void layer_norm(Stream& stream, View x, View weight, View bias, float eps, View out) override {
    check_norm(x, weight, out);
    SPILLWAY_CHECK(is_f32(bias, 1, x.cols));
    enqueue(stream, [=] {
      for (int64_t r = 0; r < x.rows; r++) {
        layer_norm_row(x.f32(r), weight.f32(), bias.f32(), x.cols, eps, out.f32(r));
      }
    });
  }

  void add(Stream& stream, View x, View y) override {
    check_add(x, y);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < x.rows; r++) {
        const float* from = y.f32(y.rows == 1 ? 0 : r);
        for (int64_t i = 0; i < x.cols; i++) x.f32(r)[i] += from[i];
      }
    });
  }

  void scale(Stream& stream, View x, float factor) override {
    SPILLWAY_CHECK(is_f32(x, x.rows, x.cols));
    enqueue(stream, [=] {
      for (int64_t r = 0; r < x.rows; r++) {
        for (int64_t i = 0; i < x.cols; i++) x.f32(r)[i] *= factor;
      }
    });
  }

  void matmul(Stream& stream, View x, std::span<const MatmulPart> parts) override {
    check_matmul(x, parts);
    enqueue(stream, [x, copy = std::vector(parts.begin(), parts.end())] {
      const std::vector<double> values = grouped(x);
      for (const MatmulPart& part : copy) matmul_part(values, x.rows, part);
    });
  }

  void rotate(Stream& stream, View x, int head_dim, RotationStyle style, View table) override {
    check_rotate(x, head_dim, table);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < x.rows; r++) {
        for (int64_t at = 0; at < x.cols; at += head_dim) {
          rotate_head(x.f32(r) + at, table.cols / 2, style, table.f32(r));
        }
      }
    });
  }

  void append(Stream& stream, View k, View v, const KvFormat& format, std::span<const AppendRun> runs) override {
    check_append(k, v, format, runs);
    enqueue(stream, [k, v, format, copy = std::vector(runs.begin(), runs.end())] {
      for (const AppendRun& run : copy) append_run(k, v, format, run);
    });
  }

  void seal(Stream& stream, const KvFormat& format, std::span<const SealRun> runs) override {
    check_seal(format);
    enqueue(stream, [format, copy = std::vector(runs.begin(), runs.end())] {
      const auto packed_bytes = static_cast<uint64_t>(format.packed_page().bytes());
      for (const SealRun& run : copy) {
        for (int head = 0; head < format.kv_heads; head++) {
          reference::pack_page(format, run.from + head * format.page_bytes(), run.to + head * packed_bytes);
        }
      }
    });
  }

  void attend(Stream& stream, View q, const AttendShape& shape, std::span<const SpanTask> tasks, View states) override {
    check_attend(q, shape, tasks, states);
    enqueue(stream, [q, shape, states, copy = std::vector(tasks.begin(), tasks.end())] {
      for (const SpanTask& task : copy) {
        float* slot = states.f32(task.slot);
        reference::clear_states(shape, slot);
        reference::fold_span(shape, q.f32(task.row), task.span, {task.first_token, task.span.tokens}, slot);
      }
    });
  }

  void attend_chunk(Stream& stream, View q, int first_position, const AttendShape& shape, std::span<const KvSpan> spans,
                    View states, bool fresh) override {
    check_attend_chunk(q, shape, spans, states);
    enqueue(stream, [=, copy = std::vector(spans.begin(), spans.end())] {
      for (int64_t row = 0; row < q.rows; row++) {
        if (fresh) reference::clear_states(shape, states.f32(row));
        for (const KvSpan& span : copy) {
          const int64_t seen = first_position + row + 1 - span.first_position;
          const int64_t hidden = shape.window == 0 ? 0 : seen - shape.window;
          const reference::TokenRange range{static_cast<int>(std::clamp<int64_t>(hidden, 0, span.tokens)),
                                            static_cast<int>(std::clamp<int64_t>(seen, 0, span.tokens))};
          reference::fold_span(shape, q.f32(row), span, range, states.f32(row));
        }
      }
    });
  }

  void merge(Stream& stream, View states, const AttendShape& shape, std::span<const MergeTask> tasks,
             View out) override {
    check_merge(states, shape, tasks, out);
    enqueue(stream, [states, shape, out, copy = std::vector(tasks.begin(), tasks.end())] {
      for (const MergeTask& task : copy) reference::merge_states(shape, states, task, out.f32(task.row));
    });
  }

  void partial_keys(Stream& stream, const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                    std::span<const PartialKeyRun> runs) override {
    check_partial_keys(kv, format, basis, runs);
    enqueue(stream, [=, copy = std::vector(runs.begin(), runs.end())] {
      for (const PartialKeyRun& run : copy) reference::partial_keys(kv, format, basis, run);
    });
  }

  void score_keys(Stream& stream, View q, const AttendShape& shape, const PartialKeyFormat& format,
                  const PartialKeyBasis& basis, std::span<const std::byte* const> rows, int tokens, int granule_tokens,
                  View scores, View weights) override {
    check_score_keys({q, shape, format, basis, rows, tokens, granule_tokens, scores, weights});
    enqueue(stream, [=, copy = std::vector(rows.begin(), rows.end())] {
      reference::score_keys(q.f32(), shape, format, basis, copy, tokens, granule_tokens, weights);
    });
  }

  void key_bounds(Stream& stream, const KvFormat& kv, int granule_tokens,
                  std::span<const PartialKeyRun> runs) override {
    check_key_bounds(kv, granule_tokens, runs);
    enqueue(stream, [=, copy = std::vector(runs.begin(), runs.end())] {
      const KeyBoundsFormat format{kv.kv_heads, kv.head_dim, granule_tokens};
      for (const PartialKeyRun& run : copy) reference::key_bounds(kv, format, run);
    });
  }

  void score_bounds(Stream& stream, View q, const AttendShape& shape, std::span<const std::byte* const> rows,
                    int tokens, int granule_tokens, View scores, View weights) override {
    check_score_bounds({q, shape, rows, tokens, granule_tokens, scores, weights});
    enqueue(stream, [=, copy = std::vector(rows.begin(), rows.end())] {
      const KeyBoundsFormat format{shape.format.kv_heads, shape.format.head_dim, granule_tokens};
      reference::score_bounds(q.f32(), shape, format, copy, weights);
    });
  }

  void sum_attention(Stream& stream, View q, int first_position, const AttendShape& shape,
                     std::span<const KvSpan> spans, View states, int granule_tokens, View sums) override {
    check_sum_attention(q, shape, spans, states, granule_tokens, sums);
    enqueue(stream, [=, copy = std::vector(spans.begin(), spans.end())] {
      for (const KvSpan& span : copy) {
        reference::sum_span(q, first_position, shape, span, states, granule_tokens, sums);
      }
    });
  }

  void sum_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View ids, View states,
                    int tokens, View sums) override {
    check_sum_selected({q, shape, kv, ids, states, tokens, sums});
    enqueue(stream, [=] { reference::sum_granules(q.f32(), shape, kv, ids, states, tokens, sums); });
  }

  void choose_granules(Stream& stream, View weights, const GranuleChoice& choice, View ids) override {
    check_choose_granules(weights, choice, ids);
    enqueue(stream, [=] {
      for (int64_t head = 0; head < ids.rows; head++) {
        reference::choose_granules(weights.f32(head), choice, reinterpret_cast<int32_t*>(ids.row(head)));
      }
    });
  }

  void attend_selected(Stream& stream, View q, const AttendShape& shape, const SelectedKv& kv, View states) override {
    check_attend_selected(q, shape, kv, states);
    enqueue(stream, [=] {
      for (int i = 0; i < kv.states(); i++) {
        reference::attend_granules(shape, q.f32(), kv, i * kv.granules_per_state(), states.f32(i));
      }
    });
  }

  void activate(Stream& stream, Activation kind, View gate, View up, View out) override {
    check_activate(gate, up, out);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < gate.rows; r++) {
        for (int64_t i = 0; i < gate.cols; i++) {
          const double y = activated(kind, gate.f32(r)[i]);
          out.f32(r)[i] = static_cast<float>(up.rows == 0 ? y : y * up.f32(r)[i]);
        }
      }
    });
  }

  void route(Stream& stream, View logits, View x, bool normalise, const ExpertRoutes& routes, View rows) override {
    check_route(logits, x, routes, rows);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < routes.rows; r++) {
        const int64_t at = r * routes.used;
        choose_experts(logits.f32(r), routes, normalise, routes.chosen() + at, routes.weight() + at);
      }
      deal_out(routes);
      for (int64_t i = 0; i < routes.places(); i++) {
        std::memcpy(rows.f32(routes.place()[i]), x.f32(i / routes.used), static_cast<size_t>(x.cols) * sizeof(float));
      }
    });
  }

  void experts(Stream& stream, Activation kind, const ExpertRoutes& routes, const ExpertWeights& weights, View rows,
               View gate, View up) override {
    check_experts(routes, weights, rows, gate, up);
    enqueue(stream, [=, here = std::vector(weights.experts.begin(), weights.experts.end())] {
      for (int e = 0; e < routes.experts; e++) {
        const int64_t first = routes.first()[e], count = routes.first()[e + 1] - first;
        if (!here[static_cast<size_t>(e)].here() || count == 0) continue;
        const auto product = [&](View shape, ExpertData::Matrix which, View x, View out) {
          shape.data = const_cast<std::byte*>(here[static_cast<size_t>(e)].matrix[which]);
          const View some = x.slice_rows(first, count);
          matmul_part(grouped(some), count, {shape, out.slice_rows(first, count)});
        };
        product(weights.gate, ExpertData::gate, rows, gate);
        product(weights.up, ExpertData::up, rows, up);
        for (int64_t r = first; r < first + count; r++) {
          for (int64_t i = 0; i < gate.cols; i++) {
            gate.f32(r)[i] = static_cast<float>(activated(kind, gate.f32(r)[i]) * up.f32(r)[i]);
          }
        }
        product(weights.down, ExpertData::down, gate, rows);
      }
    });
  }

  void combine(Stream& stream, const ExpertRoutes& routes, View rows, View x) override {
    check_combine(routes, rows, x);
    enqueue(stream, [=] {
      for (int64_t r = 0; r < routes.rows; r++) {
        for (int64_t i = 0; i < x.cols; i++) {
          double sum = 0.0;
          for (int64_t at = r * routes.used; at < (r + 1) * routes.used; at++) {
            sum += static_cast<double>(routes.weight()[at]) * rows.f32(routes.place()[at])[i];
          }
          x.f32(r)[i] = static_cast<float>(x.f32(r)[i] + sum);
        }
      }
    });
  }

  void candidates(Stream& stream, View logits, const CandidateChoice& choice, View out) override {
    check_candidates(logits, choice, out);
    const std::vector<int32_t> ids(choice.penalised.begin(), choice.penalised.end());
    enqueue(stream, [=, k = choice.k, penalty = choice.penalty] {
      for (int64_t r = 0; r < logits.rows; r++) {
        for (const int32_t id : ids) {
          float& logit = logits.f32(r)[id];
          logit = logit > 0 ? logit / penalty : logit * penalty;
        }
        choose_candidates(logits.f32(r), logits.cols, k, out.f32(r));
      }
    });
  }

 private:
  static void enqueue(Stream& stream, std::function<void()> work) {
    static_cast<CpuStream&>(stream).enqueue(std::move(work));
  }
};

}  // namespace

std::unique_ptr<Ops> make_reference_ops() { return std::make_unique<ReferenceOps>(); }

}  // namespace spillway
