// Workspace: the activations of one pass, cut once from the device's arena.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "loader/model_spec.h"
#include "memory/extent.h"

namespace spillway {

struct WorkspaceShape {
  int chunk = 1;       // rows of a prompt at most
  int logit_rows = 1;  // rows of logits at most
  int context = 1;     // positions of all sequences, for the partial states of a decode step
  int batch = 1;       // sequences that share a pass

  // Rows of a pass at most: a chunk, and beside it a decode step of all.
  int rows() const { return chunk + (batch > 1 ? batch : 0); }
  // Of each sequence the last span may be a short one.
  int spans() const { return (context + kSpanTokens - 1) / kSpanTokens + batch - 1; }
  int states() const { return batch > 1 ? rows() + spans() : std::max(rows(), spans()); }
};

// All views are f32 but `rows` and `positions`. rows, states: WorkspaceShape's.
struct Workspace {
  View x;         // [rows x hidden] residual stream
  View h;         // [rows x hidden] normalised
  View q, k, v;   // [rows x heads * head_dim], [rows x kv_heads * head_dim]
  View attn;      // [rows x heads * head_dim]
  View gate, up;  // [rows x ffn]
  // Where experts are: logits of the router [rows x experts], rows in the experts' places [rows * experts_used x
  // hidden], and, in the memory of gate and up, their inner rows [rows * experts_used x expert_ffn].
  View router, expert_rows, expert_gate, expert_up;
  ExpertRoutes routes;  // of so many rows
  View states;          // [states x heads * attn_state_floats]
  View rope;            // [rope_tables * rows x rope_dims] cos and sin, a table after the other
  View rows;            // [rows x hidden] embedding rows in the file's type; no rows where others embed
  View positions;       // [rows x hidden] rows of learned positions in the file's type; no rows where there are none
  View logits;          // [logit_rows x vocab]; no rows, and none of chosen, where others have the head
  View chosen;          // [logit_rows x candidate_floats(most)]
  ModelShape scratch_shape;  // the model's, with the run's own context
  std::byte* scratch = nullptr;
  uint64_t scratch_bytes = 0;

  // Cuts a workspace from `memory`; with null memory only counts. Returns the bytes used.
  static uint64_t cut(const ModelSpec& spec, const WorkspaceShape& size, const Ops& ops, std::byte* memory,
                      Workspace* out);

  // Host memory through which a pass's embedding rows and angles reach the device: two halves, filled in turn.
  uint64_t positions_offset() const { return align_up(rows.stride * rows.rows, 64); }
  uint64_t rope_offset() const { return align_up(positions_offset() + positions.stride * positions.rows, 64); }
  // And through which the device's choice of experts reaches the host.
  uint64_t host_choice_bytes() const { return routes.experts == 0 ? 0 : align_up(routes.first_bytes(), 64); }
  uint64_t host_half_bytes() const { return align_up(rope_offset() + rope.stride * rope.rows, 64); }
};

}  // namespace spillway
