#include "runtime/workspace.h"

#include <algorithm>

namespace spillway {

uint64_t Workspace::cut(const ModelSpec& spec, const WorkspaceShape& size, const Ops& ops, std::byte* memory,
                        Workspace* out) {
  const ModelShape& shape = spec.shape;
  uint64_t used = 0;
  const auto take = [&](uint64_t bytes) {
    std::byte* piece = memory == nullptr ? nullptr : memory + used;
    used += align_up(bytes, 64);
    return piece;
  };
  const auto matrix = [&](DType dtype, int64_t rows, int64_t cols) {
    return View::dense(take(row_bytes(dtype, cols) * rows), dtype, rows, cols);
  };
  const int rows = size.rows();
  Workspace w;
  w.x = matrix(DType::f32, rows, shape.hidden);
  w.h = matrix(DType::f32, rows, shape.hidden);
  w.q = matrix(DType::f32, rows, shape.q_width());
  w.k = matrix(DType::f32, rows, shape.kv_width());
  w.v = matrix(DType::f32, rows, shape.kv_width());
  w.attn = matrix(DType::f32, rows, shape.q_width());
  const int64_t places = int64_t{rows} * shape.experts_used;
  const auto inner = [&](View* dense, View* of_experts) {
    const uint64_t dense_bytes = row_bytes(DType::f32, shape.ffn) * rows;
    std::byte* piece = take(std::max(dense_bytes, row_bytes(DType::f32, shape.expert_ffn) * places));
    *dense = View::dense(piece, DType::f32, rows, shape.ffn);
    *of_experts = View::dense(piece, DType::f32, places, shape.expert_ffn);
  };
  inner(&w.gate, &w.expert_gate);
  inner(&w.up, &w.expert_up);
  if (shape.experts > 0) {
    w.router = matrix(DType::f32, rows, shape.experts);
    w.expert_rows = matrix(DType::f32, places, shape.hidden);
    w.routes = {.data = nullptr, .rows = rows, .experts = shape.experts, .used = shape.experts_used};
    w.routes.data = take(w.routes.bytes());
  }
  w.states = matrix(DType::f32, size.states(), shape.heads * attn_state_floats(shape.head_dim));
  w.rope = matrix(DType::f32, int64_t{shape.rope_tables} * rows, shape.rope_dims);
  if (spec.has_embedding()) w.rows = matrix(spec.token_embedding.dtype, rows, shape.hidden);
  if (spec.position_embedding.cols > 0) w.positions = matrix(spec.position_embedding.dtype, rows, shape.hidden);
  if (spec.has_head()) {
    w.logits = matrix(DType::f32, size.logit_rows, shape.vocab);
    w.chosen = matrix(DType::f32, size.logit_rows, candidate_floats(std::min(kMostCandidates, shape.vocab / 4)));
  }
  w.scratch_shape = shape;
  w.scratch_shape.context = size.spans() * kSpanTokens;
  w.scratch_bytes = ops.scratch_bytes(w.scratch_shape, rows);
  w.scratch = take(w.scratch_bytes);
  if (out != nullptr) *out = w;
  return used;
}

}  // namespace spillway
