// The part of a pass that knows of positions, pages and spans.
#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "runtime/pass.h"

namespace spillway {
namespace {

// The oldest position that the query of a decode step sees, the last of `tokens`.
int first_seen(int window, int tokens) { return window == 0 ? 0 : std::max(0, tokens - window); }
int span_count(int tokens) { return (tokens + kSpanTokens - 1) / kSpanTokens; }

}  // namespace

// Decode steps that choose share passes with one another alone: the others read layers whole that they do not.
void Pass::find_choosers() {
  choosers_.clear();
  if (p_.rehearsal == nullptr) return;
  for (const Placed& one : parts_) {
    if (!one.part.decode || !p_.rehearsal->chooses(one.tokens())) continue;
    choosers_.push_back({static_cast<int>(choosers_.size()), one.part.sequence, one.tokens()});
  }
  SPILLWAY_CHECK(choosers_.empty() || choosers_.size() == parts_.size());
  SPILLWAY_CHECK(static_cast<int>(choosers_.size()) <= p_.rehearsal->together());
}

// Of a pass whose first part is so.
KvReading Pass::reading(bool decode, int tokens) const {
  KvReading reading;
  if (p_.rehearsal != nullptr) reading = decode ? p_.rehearsal->reading(tokens) : p_.rehearsal->prompt_reading();
  if (!decode) reading.window = prompt_window_;
  return reading;
}

// The queries of a later layer, from this one's input: by them that layer chooses among the KV while this one computes.
void Pass::foretell(int layer) {
  const TraceRange range(track_, "foretell");
  Rehearsal& r = *p_.rehearsal;
  View q;
  if (r.scores()) {
    const LayerVectors& v = p_.vectors.layers[layer];
    const auto rows = static_cast<int>(x_.rows);
    const View h = r.input(rows);
    q = r.query(rows);
    const LayerVectors& norm = p_.vectors.layers[r.norm_of(layer)];
    norm_for_matmul(x_, norm.attn_norm, norm.attn_norm_bias, h);
    const MatmulPart part{r.matrix(layer), q};
    multiply(Stage::qkv, h, {&part, 1}, std::exchange(made_for_matmul_, false));
    add_bias(q, r.bias(layer).data != nullptr ? r.bias(layer) : v.q_bias);
    norm_heads(q, v.q_norm);
    if (!rotations_.empty()) {
      p_.ops.rotate(p_.compute, q, p_.spec.shape.head_dim, p_.spec.shape.rotation, angles(layer, rows));
    }
  }
  for (const Rehearsal::Step& step : choosers_) {
    r.choose(layer, step, q.rows > 0 ? q.slice_rows(step.index, 1) : View{}, step.tokens - 1);
  }
}

// Room for the keys and values of all parts.
KvGrowth Pass::grow(int layer) {
  KvGrowth all;
  for (const Placed& one : parts_) {
    KvGrowth growth = p_.kv.grow(one.part.sequence, layer, one.rows());
    for (AppendRun& run : growth.runs) run.first_row += one.first_row;
    if (parts_.size() == 1) return growth;
    const auto take = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    take(all.runs, growth.runs);
    take(all.sidecars, growth.sidecars);
    take(all.after, growth.after);
    take(all.copies, growth.copies);
  }
  return all;
}

// Turns q and k to their positions; k and v go into the cache.
void Pass::append(int layer, const PassInput& input) {
  const TraceRange range(track_, "append");
  const KvGrowth growth = grow(layer);
  for (const Event& event : growth.after) p_.compute.wait_for(event);
  for (const DeviceCopy& copy : growth.copies) p_.compute.copy(copy.to, copy.from, copy.bytes);
  const KvFormat format = p_.kv.layout().format_of(layer);
  const View table = rotations_.empty() ? View{} : angles(layer, static_cast<int>(q_.rows));
  if (input.observer) rotate_observed(layer, *input.observer, table);
  if (rotations_.empty() || input.observer) {
    p_.ops.append(p_.compute, k_, v_, format, growth.runs);
  } else {
    p_.ops.rotate_append(p_.compute, {q_, k_, v_, p_.spec.shape.rotation, table}, format, growth.runs);
  }
  if (p_.rehearsal != nullptr && p_.rehearsal->chooses_in(layer)) p_.rehearsal->keep_keys(layer, growth);
}

// Of the pass's positions, as the layer turns.
View Pass::angles(int layer, int rows) const {
  const View& tables = p_.workspace.rope;
  return tables.slice_rows(tables.rows / p_.spec.shape.rope_tables * p_.spec.layers[layer].rope, rows);
}

// Apart from the append, which leaves keys in any state.
void Pass::rotate_observed(int layer, PassObserver& observer, View table) {
  const ModelShape& shape = p_.spec.shape;
  if (table.rows > 0) {
    p_.ops.rotate(p_.compute, q_, shape.head_dim, shape.rotation, table);
    p_.ops.rotate(p_.compute, k_, shape.head_dim, shape.rotation, table);
  }
  count_observed(observer.rotated(p_.compute, p_.first_layer + layer, q_, k_));
}

void Pass::count_observed(uint64_t bytes) {
  if (p_.far) p_.traffic.add(Link::device_to_host, Cause::activations, bytes);
}

// Attention as a fold over spans in position order: a decode step writes each span's state to its own slot and merges
// once; a chunk folds one running state (ARCHITECTURE.md, idea 1).
void Pass::attend(int layer) {
  const TraceRange range(track_, "attend");
  const AttendShape shape{p_.kv.layout().format_of(layer), p_.spec.shape.heads, p_.spec.attention_scale,
                          p_.spec.layers[layer].window};
  merges_.clear();
  if (!choosers_.empty() && p_.rehearsal->chooses_in(layer)) {
    attend_chosen(layer, shape);
  } else {
    int state = 0;
    for (const Placed& one : parts_) state += attend_part(layer, one, shape, state);
    attend_pending(shape);
  }
  pack(layer);
  p_.ops.merge_for_matmul(p_.compute, p_.workspace.states, shape, merges_, attn_);
  made_for_matmul_ = true;
  p_.kv_feed.settle(layer, p_.compute);
}

// Into states from `first_state` on; returns how many.
int Pass::attend_part(int layer, const Placed& one, const AttendShape& shape, int first_state) {
  if (!one.part.decode) {
    AttendShape seen = shape;
    seen.window = narrower(shape.window, prompt_window_);
    attend_chunk(layer, one, seen, first_state);
    for (int row = 0; row < one.rows(); ++row) merges_.push_back({one.first_row + row, first_state + row, 1});
    return one.rows();
  }
  const int states = attend_spans(layer, one, shape, first_state);
  merges_.push_back({one.first_row, first_state, states});
  return states;
}

// Where no earlier layer could foretell the queries, the layer chooses now.
void Pass::attend_chosen(int layer, const AttendShape& shape) {
  p_.rehearsal->choose_truly(layer, choosers_, q_);
  int states = 0;
  for (const Rehearsal::Step& step : choosers_) {
    const int own = attend_choice(layer, step, shape, states);
    merges_.push_back({step.index, states, own});
    states += own;
  }
}

// Reads what was chosen, into states from `first_state` on; returns how many. To check what is missing everything is
// read too, and the last of the two readings is the answer.
int Pass::attend_choice(int layer, const Rehearsal::Step& step, const AttendShape& shape, int first_state) {
  Rehearsal& r = *p_.rehearsal;
  const bool checks = r.checks(layer, step.tokens);
  const View all_states = p_.workspace.states;
  const View own = all_states.slice_rows(first_state, all_states.rows - first_state);
  int states = 0;
  const auto read = [&](bool all) {
    if (all) {
      states = attend_spans(layer, parts_[static_cast<size_t>(step.index)], shape, first_state);
      attend_pending(shape);
    } else {
      states = r.attend(layer, step, q_.slice_rows(step.index, 1), shape, own);
    }
    if (checks) r.look_at(own.slice_rows(0, states), all);
  };
  if (checks) read(!r.answers_by_all());
  read(r.answers_by_all());
  if (checks) r.count_missed();
  return states;
}

// A decode step reads every span that its query sees, as it arrives: those that are here at once wait for one call that
// reads those of all parts. Returns the number of states.
int Pass::attend_spans(int layer, const Placed& one, const AttendShape& shape, int first_state) {
  const int first = first_seen(shape.window, one.tokens());
  const int first_span = first / kSpanTokens;
  for (int left = p_.kv_feed.groups(layer, one.part.sequence); left > 0; --left) {
    KvGroup group = p_.kv_feed.next(layer, one.part.sequence, one.tokens());
    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());
    for (const KvSpan& span : group.spans) {
      if (span.first_position + span.tokens <= first) continue;
      tasks_.push_back({.span = span,
                        .row = one.first_row,
                        .slot = first_state + span.first_position / kSpanTokens - first_span,
                        .first_token = std::max(0, first - span.first_position)});
    }
    if (!group.lease.moves()) continue;
    attend_pending(shape);
    group.lease.release(p_.compute.record());
  }
  return span_count(one.tokens()) - first_span;
}

void Pass::attend_pending(const AttendShape& shape) {
  if (!tasks_.empty()) p_.ops.attend(p_.compute, q_, shape, tasks_, p_.workspace.states);
  tasks_.clear();
}

void Pass::attend_chunk(int layer, const Placed& one, const AttendShape& shape, int first_state) {
  const View q = q_.slice_rows(one.first_row, one.rows());
  const View states = p_.workspace.states.slice_rows(first_state, one.rows());
  bool fresh = true;
  each_group(layer, one, [&](std::span<const KvSpan> spans) {
    p_.ops.attend_chunk(p_.compute, q, one.first_position, shape, spans, states, fresh);
    fresh = false;
  });
  if (p_.rehearsal == nullptr || !p_.rehearsal->adds_up(layer)) return;
  // Once more: what a query gives to each span is known when it has seen all.
  each_group(layer, one, [&](std::span<const KvSpan> spans) {
    p_.rehearsal->add_up(layer, one.part.sequence, q, one.first_position, shape.window, spans, states);
  });
}

// Each is read as it arrives.
void Pass::each_group(int layer, const Placed& one, const std::function<void(std::span<const KvSpan>)>& read) {
  for (int left = p_.kv_feed.groups(layer, one.part.sequence); left > 0; --left) {
    KvGroup group = p_.kv_feed.next(layer, one.part.sequence, one.tokens());
    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());
    read(group.spans);
    if (group.lease.moves()) group.lease.release(p_.compute.record());
  }
}

// Pages that are among the newest no longer, once this pass has read them: before any byte of them leaves the device.
void Pass::pack(int layer) {
  const KvPacking packing = p_.kv.pack(layer);
  if (packing.runs.empty()) return;
  const TraceRange range(track_, "seal");
  for (const Event& event : packing.after) p_.compute.wait_for(event);
  for (const DeviceCopy& copy : packing.copies) p_.compute.copy(copy.to, copy.from, copy.bytes);
  p_.ops.seal(p_.compute, p_.kv.layout().format_of(layer), packing.runs);
  if (p_.rehearsal != nullptr && p_.rehearsal->chooses_in(layer)) p_.rehearsal->keep_heads(layer, packing);
}

}  // namespace spillway
