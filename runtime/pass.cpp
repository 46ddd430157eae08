#include "runtime/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/check.h"

namespace spillway {

Pass::Pass(const PassParts& parts)
    : p_(parts), track_(Trace::track("host")), rotation_(parts.spec.shape, parts.spec.rope_factors) {
  for (int layer = 0; layer < parts.spec.shape.layers; ++layer) {
    layer_names_.push_back(Trace::keep("layer " + std::to_string(layer)));
  }
}

void Pass::run(const PassInput& input, const OnLogits& on_logits) {
  const int rows = static_cast<int>(input.tokens.size());
  const int first_position = p_.kv.tokens(input.sequence);
  SPILLWAY_CHECK(rows > 0 && rows <= p_.workspace.x.rows && (!input.decode || rows == 1));
  const Workspace& w = p_.workspace;
  x_ = w.x.slice_rows(0, rows);
  h_ = w.h.slice_rows(0, rows);
  q_ = w.q.slice_rows(0, rows);
  k_ = w.k.slice_rows(0, rows);
  v_ = w.v.slice_rows(0, rows);
  attn_ = w.attn.slice_rows(0, rows);
  gate_ = w.gate.slice_rows(0, rows);
  up_ = w.up.slice_rows(0, rows);
  rope_ = w.rope.slice_rows(0, rows);

  const TraceRange range(track_, input.decode ? "decode" : "prefill");
  const bool another = input.next_logit_rows != PassInput::kNoPass;
  p_.weight_feed.begin_pass(head_sweeps(input.logit_rows),
                            another ? head_sweeps(input.next_logit_rows) : WeightFeed::kNoPass);
  p_.kv_feed.begin_pass(input.sequence);
  next_unit_ = 0;
  load_inputs(input, first_position);
  for (int layer = 0; layer < p_.spec.shape.layers; ++layer) block(layer, input, first_position);
  p_.kv.advance(input.sequence, rows);
  if (another) p_.kv_feed.begin_pass(input.sequence);
  head(input, rows, on_logits);
}

// One layer (Llama, arXiv 2302.13971, section 2.2).
void Pass::block(int layer, const PassInput& input, int first_position) {
  const ModelShape& shape = p_.spec.shape;
  const int rows = static_cast<int>(x_.rows);
  const TraceRange range(track_, layer_names_[layer]);
  p_.ops.norm(p_.compute, x_, p_.norms[layer].attn, shape.norm_eps, h_);
  project(Stage::qkv, layer, h_, {q_, k_, v_}, false);
  rotate_append(layer, input, rows);
  attend(layer, input, first_position, rows);
  project(Stage::attn_out, layer, attn_, {x_}, true);
  p_.ops.norm(p_.compute, x_, p_.norms[layer].ffn, shape.norm_eps, h_);
  project(Stage::gate_up, layer, h_, {gate_, up_}, false);
  p_.ops.swiglu(p_.compute, gate_, up_, gate_);
  project(Stage::down, layer, gate_, {x_}, true);
}

// outs (+)= x . weight^T, unit by unit as the weights arrive.
void Pass::project(Stage stage, int layer, View x, std::initializer_list<View> outs, bool add) {
  const TraceRange range(track_, kStageNames[static_cast<int>(stage)]);
  for (; next_unit_ < p_.weights.units.size(); ++next_unit_) {
    const WeightUnit& unit = p_.weights.units[next_unit_];
    if (unit.stage != stage || unit.layer != layer) break;
    Lease lease = p_.weight_feed.acquire(next_unit_);
    if (lease.moves()) p_.compute.wait_for(lease.ready());
    MatmulPart parts[4];
    size_t count = 0;
    for (const WeightSlice& slice : unit.slices) {
      const View out = outs.begin()[slice.matrix].slice_cols(slice.first_row, slice.rows);
      parts[count++] = {unit.view(slice, lease.data()), out, add};
    }
    multiply(stage, x, {parts, count});
    if (lease.moves()) lease.release(p_.compute.record());
  }
}

// How many rows of logits are computed at once follows from the budget, and may not change them: so the head is
// multiplied in calls that agree with one another.
void Pass::multiply(Stage stage, View x, std::span<const MatmulPart> parts) {
  const int few = stage == Stage::head ? p_.ops.few_rows() : 0;
  if (few == 0) return p_.ops.matmul(p_.compute, x, parts);
  for (int64_t row = 0; row < x.rows; row += few) {
    const int64_t rows = std::min<int64_t>(few, x.rows - row);
    MatmulPart some[4];
    for (size_t i = 0; i < parts.size(); ++i) {
      some[i] = {parts[i].weight, parts[i].out.slice_rows(row, rows), parts[i].add};
    }
    p_.ops.matmul(p_.compute, x.slice_rows(row, rows), {some, parts.size()});
  }
}

void Pass::rotate_append(int layer, const PassInput& input, int rows) {
  const TraceRange range(track_, "append");
  const KvGrowth growth = p_.kv.grow(input.sequence, layer, rows);
  for (const Event& event : growth.after) p_.compute.wait_for(event);
  for (const KvGrowth::Copy& copy : growth.copies) p_.compute.copy(copy.to, copy.from, copy.bytes);
  p_.ops.rotate_append(p_.compute, {q_, k_, v_, p_.spec.shape.rotation, rope_}, p_.kv.layout().format, growth.runs);
}

// Attention as a fold over spans in position order: a decode step writes each span's state to its own slot and merges
// once; a chunk folds one running state (ARCHITECTURE.md, idea 1).
void Pass::attend(int layer, const PassInput& input, int first_position, int rows) {
  const TraceRange range(track_, "attend");
  const ModelShape& shape = p_.spec.shape;
  const AttendShape attend{p_.kv.layout().format, shape.heads, 1.0f / std::sqrt(static_cast<float>(shape.head_dim))};
  const int tokens = first_position + rows;
  std::vector<SpanTask> tasks;
  bool fresh = true;
  for (int left = p_.kv_feed.groups(layer); left > 0; --left) {
    KvGroup group = p_.kv_feed.next(layer, tokens);
    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());
    if (input.decode) {
      tasks.clear();
      for (const KvSpan& span : group.spans) tasks.push_back({span, 0, span.first_position / kSpanTokens});
      p_.ops.attend(p_.compute, q_, attend, tasks, p_.workspace.states);
    } else {
      p_.ops.attend_chunk(p_.compute, q_, first_position, attend, group.spans, p_.workspace.states.slice_rows(0, rows),
                          fresh);
    }
    fresh = false;
    if (group.lease.moves()) group.lease.release(p_.compute.record());
  }
  std::vector<MergeTask> merges;
  if (input.decode) {
    merges.push_back({0, 0, (tokens + kSpanTokens - 1) / kSpanTokens});
  } else {
    for (int row = 0; row < rows; ++row) merges.push_back({row, row, 1});
  }
  p_.ops.merge(p_.compute, p_.workspace.states, attend, merges, attn_);
  p_.kv_feed.settle(layer, p_.compute.record());
}

// Embedding rows are read from the file as they are asked for, one for each token; the table itself is never resident.
void Pass::load_inputs(const PassInput& input, int first_position) {
  const TraceRange range(track_, "inputs");
  const Workspace& w = p_.workspace;
  const int rows = static_cast<int>(input.tokens.size());
  const TensorInfo& table = p_.spec.token_embedding;
  half_free_[half_].wait();
  std::byte* host = p_.host_inputs.data() + half_ * w.host_half_bytes();
  std::byte* rope = host + w.rope_offset();
  const File& file = p_.checkpoint.files[table.extent.file];
  for (int row = 0; row < rows; ++row) {
    file.read(table.extent.offset + input.tokens[row] * w.rows.stride, {host + row * w.rows.stride, w.rows.stride});
  }
  rotation_.fill(first_position, rows, reinterpret_cast<float*>(rope));
  p_.compute.copy(w.rows.data, host, rows * w.rows.stride);
  p_.compute.copy(w.rope.data, rope, rows * w.rope.stride);
  half_free_[half_] = p_.compute.record();
  half_ ^= 1;
  p_.ops.dequantize(p_.compute, w.rows.slice_rows(0, rows), x_);
}

// Rows of logits beyond what the workspace holds at once cost another reading of the head.
int Pass::head_sweeps(int logit_rows) const {
  return static_cast<int>((logit_rows + p_.workspace.logits.rows - 1) / p_.workspace.logits.rows);
}

void Pass::head(const PassInput& input, int rows, const OnLogits& on_logits) {
  const uint32_t head_unit = next_unit_;
  const int first = rows - input.logit_rows;
  const int at_once = static_cast<int>(p_.workspace.logits.rows);
  for (int row = first; row < rows; row += at_once) {
    const int count = std::min(at_once, rows - row);
    const View h = h_.slice_rows(row, count);
    const View logits = p_.workspace.logits.slice_rows(0, count);
    next_unit_ = head_unit;
    p_.ops.norm(p_.compute, x_.slice_rows(row, count), p_.output_norm, p_.spec.shape.norm_eps, h);
    project(Stage::head, 0, h, {logits}, false);
    on_logits(row, logits);
  }
}

}  // namespace spillway
