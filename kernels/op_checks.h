// What every device demands of the arguments of its operations (kernels/ops.h); what one of them alone demands stands
// with it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/check.h"
#include "kernels/ops.h"

namespace spillway {

inline bool is_f32(const View& v, int64_t rows, int64_t cols) {
  return v.dtype == DType::f32 && v.rows == rows && v.cols == cols;
}

inline void check_dequantize(const View& rows, const View& out) {
  SPILLWAY_CHECK(is_f32(out, rows.rows, rows.cols) && rows.dtype != DType::i32);
  SPILLWAY_CHECK(rows.cols % info(rows.dtype).block_elements == 0);
}

inline void check_norm(const View& x, const View& weight, const View& out) {
  SPILLWAY_CHECK(is_f32(x, x.rows, x.cols) && is_f32(out, x.rows, x.cols) && is_f32(weight, 1, x.cols));
}

inline void check_add(const View& x, const View& y) {
  SPILLWAY_CHECK(is_f32(x, x.rows, x.cols) && (is_f32(y, x.rows, x.cols) || is_f32(y, 1, x.cols)));
}

inline void check_matmul(const View& x, std::span<const MatmulPart> parts) {
  SPILLWAY_CHECK(is_f32(x, x.rows, x.cols) && parts.size() <= kMostMatmulParts);
  for (const MatmulPart& part : parts) {
    SPILLWAY_CHECK(part.weight.dtype != DType::i32 && part.weight.cols == x.cols);
    SPILLWAY_CHECK(x.cols % info(part.weight.dtype).block_elements == 0);
    SPILLWAY_CHECK(is_f32(part.out, x.rows, part.weight.rows));
  }
}

inline void check_rotate(const View& x, int head_dim, const View& table) {
  SPILLWAY_CHECK(is_f32(x, x.rows, x.cols) && x.cols % head_dim == 0);
  SPILLWAY_CHECK(is_f32(table, x.rows, table.cols) && table.cols % 2 == 0 && table.cols <= head_dim);
}

// Rows of the longest run.
inline int32_t check_append(const View& k, const View& v, const KvFormat& format, std::span<const AppendRun> runs) {
  const int64_t width = int64_t{format.kv_heads} * format.head_dim;
  SPILLWAY_CHECK(is_f32(k, k.rows, width) && is_f32(v, k.rows, width));
  int32_t longest = 0;
  for (const AppendRun& run : runs) {
    SPILLWAY_CHECK(run.first_token >= 0 && run.count >= 0 && run.first_token + run.count <= kPageTokens);
    SPILLWAY_CHECK(run.first_row >= 0 && int64_t{run.first_row} + run.count <= k.rows);
    longest = std::max(longest, run.count);
  }
  return longest;
}

inline void check_seal(const KvFormat& format) {
  SPILLWAY_CHECK(format.packs() && format.dtype == DType::f16 && can_pack(format.head_dim));
}

// `rows`: of queries, or of what they attend to.
inline void check_attention(const View& rows, const AttendShape& shape, const View& states) {
  SPILLWAY_CHECK(shape.format.kv_heads > 0 && shape.format.head_dim > 0 && shape.heads % shape.format.kv_heads == 0);
  SPILLWAY_CHECK(is_f32(rows, rows.rows, int64_t{shape.heads} * shape.format.head_dim));
  SPILLWAY_CHECK(is_f32(states, states.rows, int64_t{shape.heads} * attn_state_floats(shape.format.head_dim)));
}

inline void check_span(const KvSpan& span, const KvFormat& format) {
  SPILLWAY_CHECK(span.tokens >= 0 && span.tokens <= kSpanTokens);
  for (int t = 0; t < span.tokens; t += kPageTokens) SPILLWAY_CHECK(span.rows[t / kPageTokens] != nullptr);
  SPILLWAY_CHECK(span.packed >> span.tokens / kPageTokens == 0);  // packed rows are full ones
  SPILLWAY_CHECK(span.packed == 0 || (format.packs() && format.dtype == DType::f16 && can_pack(format.head_dim)));
}

inline void check_attend(const View& q, const AttendShape& shape, std::span<const SpanTask> tasks, const View& states) {
  check_attention(q, shape, states);
  for (const SpanTask& task : tasks) {
    check_span(task.span, shape.format);
    SPILLWAY_CHECK(task.row >= 0 && task.row < q.rows && task.slot >= 0 && task.slot < states.rows);
    SPILLWAY_CHECK(task.first_token >= 0 && task.first_token <= task.span.tokens);
  }
}

inline void check_attend_chunk(const View& q, const AttendShape& shape, std::span<const KvSpan> spans,
                               const View& states) {
  check_attention(q, shape, states);
  SPILLWAY_CHECK(states.rows == q.rows);
  for (const KvSpan& span : spans) check_span(span, shape.format);
}

inline void check_merge(const View& states, const AttendShape& shape, std::span<const MergeTask> tasks,
                        const View& out) {
  check_attention(out, shape, states);
  for (const MergeTask& task : tasks) {
    SPILLWAY_CHECK(task.row >= 0 && task.row < out.rows && task.count >= 0 && task.first_slot >= 0);
    SPILLWAY_CHECK(int64_t{task.first_slot} + task.count <= states.rows);
  }
}

inline void check_activate(const View& gate, const View& up, const View& out) {
  SPILLWAY_CHECK(is_f32(gate, out.rows, out.cols) && is_f32(out, out.rows, out.cols));
  SPILLWAY_CHECK(up.rows == 0 || is_f32(up, out.rows, out.cols));
}

inline void check_route(const View& logits, const View& x, const ExpertRoutes& routes, const View& rows) {
  SPILLWAY_CHECK(is_f32(logits, routes.rows, routes.experts) && is_f32(x, routes.rows, x.cols));
  SPILLWAY_CHECK(is_f32(rows, routes.places(), x.cols));
  SPILLWAY_CHECK(routes.used >= 1 && routes.used <= std::min(routes.experts, kMostExpertsUsed));
  SPILLWAY_CHECK(routes.experts <= kMostExperts);
}

inline void check_experts(const ExpertRoutes& routes, const ExpertWeights& weights, const View& rows, const View& gate,
                          const View& up) {
  SPILLWAY_CHECK(is_f32(rows, routes.places(), weights.gate.cols) && weights.down.rows == rows.cols);
  SPILLWAY_CHECK(is_f32(gate, routes.places(), weights.gate.rows) && is_f32(up, gate.rows, gate.cols));
  SPILLWAY_CHECK(weights.up.rows == gate.cols && weights.up.cols == rows.cols && weights.down.cols == gate.cols);
  SPILLWAY_CHECK(weights.experts.size() == static_cast<size_t>(routes.experts));
}

inline void check_combine(const ExpertRoutes& routes, const View& rows, const View& x) {
  SPILLWAY_CHECK(is_f32(x, routes.rows, x.cols) && is_f32(rows, routes.places(), x.cols));
}

inline void check_candidates(const View& logits, const CandidateChoice& choice, const View& out) {
  SPILLWAY_CHECK(is_f32(logits, out.rows, logits.cols) && is_f32(out, logits.rows, candidate_floats(choice.k)));
  SPILLWAY_CHECK(choice.k >= 1 && choice.k <= kMostCandidates && choice.k <= logits.cols);
  SPILLWAY_CHECK(choice.penalised.size() <= kMostPenalised);
  for (const int32_t id : choice.penalised) SPILLWAY_CHECK(id >= 0 && id < logits.cols);
}

}  // namespace spillway
