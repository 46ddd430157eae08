#include "runtime/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"

namespace spillway {
namespace {

// The oldest position that the query of a decode step sees, the last of `tokens`.
int first_seen(int window, int tokens) { return window == 0 ? 0 : std::max(0, tokens - window); }
int span_count(int tokens) { return (tokens + kSpanTokens - 1) / kSpanTokens; }

}  // namespace

Pass::Pass(const PassParts& parts) : p_(parts), track_(Trace::track("host")) {
  for (const RopeSpec& rope : parts.spec.ropes) rotations_.emplace_back(rope, parts.context);
  for (int layer = 0; layer < parts.spec.shape.layers; ++layer) {
    layer_names_.push_back(Trace::keep("layer " + std::to_string(parts.first_layer + layer)));
  }
  const int experts = parts.spec.shape.experts;
  expert_data_.resize(static_cast<size_t>(experts));
  chosen_.reserve(static_cast<size_t>(experts));
  for (int expert = 0; expert < experts; ++expert) all_experts_.push_back({expert, nullptr});
}

Handover Pass::run(const PassInput& input, const Handover& from, const OnLogits& on_logits) {
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

  const TraceRange range(track_, input.decode ? "decode" : "prefill");
  const bool another = input.next_logit_rows != PassInput::kNoPass;
  p_.weight_feed.begin_pass(head_sweeps(input.logit_rows),
                            another ? head_sweeps(input.next_logit_rows) : WeightFeed::kNoPass);
  p_.kv_feed.begin_pass(input.sequence, reading(input.decode, first_position + rows));
  next_unit_ = 0;
  next_expert_ = 0;
  made_for_matmul_ = false;
  p_.compute.wait_for(x_free_);
  load_inputs(input, first_position);
  if (from.free != nullptr) take_over(from);
  blocks(input, first_position);
  p_.kv.advance(input.sequence, rows);
  if (another) p_.kv_feed.begin_pass(input.sequence, reading(input.next_decodes, first_position + rows + 1));
  if (!p_.spec.has_head()) return {x_, p_.compute.record(), &x_free_};
  head(input, rows, on_logits);
  return {};
}

void Pass::take_over(const Handover& from) {
  p_.compute.wait_for(from.ready);
  p_.compute.copy(x_.data, from.x.data, static_cast<uint64_t>(x_.rows) * x_.stride);
  *from.free = p_.compute.record();
}

void Pass::blocks(const PassInput& input, int first_position) {
  struct Layers {
    Ops& ops;
    ~Layers() { ops.end_layers(); }
  } layers{p_.ops};
  for (int layer = 0; layer < p_.spec.shape.layers; ++layer) {
    if (input.decode) p_.ops.begin_layer(p_.compute, layer);
    block(layer, input, first_position);
  }
}

// One layer (Llama, arXiv 2302.13971, section 2.2; what other families add is nothing where a model has it not).
void Pass::block(int layer, const PassInput& input, int first_position) {
  const TraceRange range(track_, layer_names_[layer]);
  const LayerVectors& v = p_.vectors.layers[layer];
  const int rows = static_cast<int>(x_.rows), tokens = first_position + rows;
  const int foretold = chooses(input.decode, tokens) ? p_.rehearsal->foretold_by(layer) : -1;
  if (foretold >= 0) foretell(foretold, input, tokens);
  const int number = p_.first_layer + layer;
  if (input.observer) count_observed(input.observer->attention_input(p_.compute, number, x_));
  norm_for_matmul(x_, v.attn_norm, v.attn_norm_bias, h_);
  project(Stage::qkv, layer, h_, {q_, k_, v_}, false);
  add_bias(q_, v.q_bias);
  if (input.observer) count_observed(input.observer->queries(p_.compute, number, q_));
  add_bias(k_, v.k_bias);
  add_bias(v_, v.v_bias);
  norm_heads(q_, v.q_norm);
  norm_heads(k_, v.k_norm);
  append(layer, input, rows);
  attend(layer, input, first_position, rows);
  contribute(Stage::attn_out, layer, attn_, v.attn_out_bias, v.attn_post_norm);
  if (p_.spec.layers[layer].has_experts()) {
    norm(x_, v.ffn_norm, v.ffn_norm_bias, h_);
    mix_experts(layer, input.decode);
  } else {
    norm_for_matmul(x_, v.ffn_norm, v.ffn_norm_bias, h_);
    feed_forward(layer);
  }
  if (foretold >= 0) p_.rehearsal->fetch(foretold, input.sequence, tokens);
}

bool Pass::chooses(bool decode, int tokens) const {
  return p_.rehearsal != nullptr && decode && p_.rehearsal->chooses(tokens);
}

KvReading Pass::reading(bool decode, int tokens) const {
  if (p_.rehearsal == nullptr) return {};
  return decode ? p_.rehearsal->reading(tokens) : p_.rehearsal->prompt_reading();
}

// The query of a later layer, from this one's input: by it that layer chooses among the KV while this one computes.
void Pass::foretell(int layer, const PassInput& input, int tokens) {
  const TraceRange range(track_, "foretell");
  Rehearsal& r = *p_.rehearsal;
  if (!r.scores()) return r.choose(layer, input.sequence, {}, tokens - 1, tokens);
  const LayerVectors& v = p_.vectors.layers[layer];
  const View q = r.query();
  const LayerVectors& norm = p_.vectors.layers[r.norm_of(layer)];
  norm_for_matmul(x_, norm.attn_norm, norm.attn_norm_bias, r.input());
  const MatmulPart part{r.matrix(layer), q};
  multiply(Stage::qkv, r.input(), {&part, 1}, std::exchange(made_for_matmul_, false));
  add_bias(q, r.bias(layer).data != nullptr ? r.bias(layer) : v.q_bias);
  norm_heads(q, v.q_norm);
  if (!rotations_.empty()) {
    p_.ops.rotate(p_.compute, q, p_.spec.shape.head_dim, p_.spec.shape.rotation, angles(layer, 1));
  }
  r.choose(layer, input.sequence, q, tokens - 1, tokens);
}

void Pass::feed_forward(int layer) {
  const LayerVectors& v = p_.vectors.layers[layer];
  project(Stage::gate_up, layer, h_, {gate_, up_}, false);
  add_bias(gate_, v.gate_bias);
  add_bias(up_, v.up_bias);
  const View up = p_.spec.layers[layer].up.cols > 0 ? up_ : View{};
  p_.ops.activate_for_matmul(p_.compute, p_.spec.activation, gate_, up, gate_);
  made_for_matmul_ = true;
  contribute(Stage::down, layer, gate_, v.down_bias, v.ffn_post_norm);
}

// Each row goes to a few experts, whose results are added with the router's weights (Mixtral, arXiv 2401.04088, section
// 2.1). Where all experts are on the device, the host need not know which.
void Pass::mix_experts(int layer, bool decode) {
  const View logits = p_.workspace.router.slice_rows(0, h_.rows);
  ExpertRoutes routes = p_.workspace.routes;
  routes.rows = h_.rows;
  const View rows = p_.workspace.expert_rows.slice_rows(0, routes.places());
  project(Stage::router, layer, h_, {logits}, false);
  const TraceRange range(track_, kStageNames[static_cast<int>(Stage::experts)]);
  p_.ops.route(p_.compute, logits, h_, p_.spec.expert_weights_norm, routes, rows);
  if (p_.experts->resident()) {
    for (ExpertFeed::Here& one : all_experts_) one.data = p_.experts->place(next_expert_, one.expert);
    run_experts(layer, routes, all_experts_);
  } else {
    p_.experts->ask(next_expert_, choice(routes), !decode);
    ExpertFeed::Group group;
    while (p_.experts->next(&group)) {
      for (const Event& event : group.ready) p_.compute.wait_for(event);
      run_experts(layer, routes, group.experts);
      p_.experts->give_back(p_.compute.record());
    }
  }
  next_expert_ += p_.spec.shape.experts;
  p_.ops.combine(p_.compute, routes, rows, x_);
}

void Pass::run_experts(int layer, const ExpertRoutes& routes, std::span<const ExpertFeed::Here> here) {
  const LayerTensors& tensors = p_.spec.layers[layer];
  const auto shape = [](const ExpertMatrix& m) { return View::dense(nullptr, m.dtype, m.rows, m.cols); };
  std::fill(expert_data_.begin(), expert_data_.end(), ExpertData{});
  for (const ExpertFeed::Here& one : here) {
    const WeightUnit& unit = p_.experts->unit(next_expert_, one.expert);
    for (size_t i = 0; i < unit.slices.size(); ++i) {
      expert_data_[one.expert].matrix[i] = one.data + unit.slices[i].offset;
    }
  }
  const Workspace& w = p_.workspace;
  const int64_t places = routes.places();
  p_.ops.experts(p_.compute, p_.spec.activation, routes,
                 {shape(tensors.expert_gate), shape(tensors.expert_up), shape(tensors.expert_down), expert_data_},
                 w.expert_rows.slice_rows(0, places), w.expert_gate.slice_rows(0, places),
                 w.expert_up.slice_rows(0, places));
}

// The experts that any row goes to, ascending: the one thing that a pass waits for.
std::span<const int> Pass::choice(const ExpertRoutes& routes) {
  const TraceRange range(track_, "wait for the router");
  std::byte* host = p_.host_inputs.data() + 2 * p_.workspace.host_half_bytes();
  p_.compute.copy(host, routes.first(), routes.first_bytes());
  if (p_.far) p_.traffic.add(Link::device_to_host, Cause::activations, routes.first_bytes());
  p_.compute.record().wait();
  const auto* first = reinterpret_cast<const int32_t*>(host);
  chosen_.clear();
  for (int expert = 0; expert < routes.experts; ++expert) {
    if (first[expert + 1] > first[expert]) chosen_.push_back(expert);
  }
  return chosen_;
}

void Pass::norm(View x, View weight, View bias, View out) {
  if (p_.spec.norm == NormKind::layer) {
    p_.ops.layer_norm(p_.compute, x, weight, bias, p_.spec.shape.norm_eps, out);
  } else {
    p_.ops.norm(p_.compute, x, weight, p_.spec.shape.norm_eps, out);
  }
}

// What the projection that follows reads.
void Pass::norm_for_matmul(View x, View weight, View bias, View out) {
  if (p_.spec.norm == NormKind::layer) return norm(x, weight, bias, out);
  p_.ops.norm_for_matmul(p_.compute, x, weight, p_.spec.shape.norm_eps, out);
  made_for_matmul_ = true;
}

void Pass::add_bias(View x, View bias) {
  if (bias.data != nullptr) p_.ops.add(p_.compute, x, bias);
}

// Queries or keys, head by head, where the family does that (Qwen 3, Gemma 3).
void Pass::norm_heads(View x, View weight) {
  if (weight.data == nullptr) return;
  const ModelShape& shape = p_.spec.shape;
  const View heads = View::dense(x.data, DType::f32, x.rows * (x.cols / shape.head_dim), shape.head_dim);
  p_.ops.norm(p_.compute, heads, weight, shape.norm_eps, heads);
}

// Adds x . weight^T, with its bias or its norm, to the residual stream.
void Pass::contribute(Stage stage, int layer, View x, View bias, View post_norm) {
  if (post_norm.data == nullptr) {
    project(stage, layer, x, {x_}, true);
    return add_bias(x_, bias);
  }
  project(stage, layer, x, {h_}, false);
  add_bias(h_, bias);
  norm(h_, post_norm, {}, h_);
  p_.ops.add(p_.compute, x_, h_);
}

// outs (+)= x . weight^T, unit by unit as the weights arrive.
void Pass::project(Stage stage, int layer, View x, std::initializer_list<View> outs, bool add) {
  const TraceRange range(track_, kStageNames[static_cast<int>(stage)]);
  bool more = std::exchange(made_for_matmul_, false);
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
    multiply(stage, x, {parts, count}, more);
    more = true;
    if (lease.moves()) lease.release(p_.compute.record());
  }
}

// How many rows of logits are computed at once follows from the budget, and may not change them: so the head is
// multiplied in calls that agree with one another.
void Pass::multiply(Stage stage, View x, std::span<const MatmulPart> parts, bool more) {
  const int few = stage == Stage::head ? p_.ops.few_rows() : 0;
  if (few == 0) return more ? p_.ops.matmul_more(p_.compute, x, parts) : p_.ops.matmul(p_.compute, x, parts);
  for (int64_t row = 0; row < x.rows; row += few) {
    const int64_t rows = std::min<int64_t>(few, x.rows - row);
    MatmulPart some[4];
    for (size_t i = 0; i < parts.size(); ++i) {
      some[i] = {parts[i].weight, parts[i].out.slice_rows(row, rows), parts[i].add};
    }
    p_.ops.matmul(p_.compute, x.slice_rows(row, rows), {some, parts.size()});
  }
}

// Turns q and k to their positions; k and v go into the cache.
void Pass::append(int layer, const PassInput& input, int rows) {
  const TraceRange range(track_, "append");
  const KvGrowth growth = p_.kv.grow(input.sequence, layer, rows);
  for (const Event& event : growth.after) p_.compute.wait_for(event);
  for (const KvGrowth::Copy& copy : growth.copies) p_.compute.copy(copy.to, copy.from, copy.bytes);
  const KvFormat format = p_.kv.layout().format_of(layer);
  const View table = rotations_.empty() ? View{} : angles(layer, rows);
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
void Pass::attend(int layer, const PassInput& input, int first_position, int rows) {
  const TraceRange range(track_, "attend");
  const ModelShape& shape = p_.spec.shape;
  const int window = p_.spec.layers[layer].window;
  const AttendShape attend{p_.kv.layout().format_of(layer), shape.heads, p_.spec.attention_scale, window};
  const int tokens = first_position + rows;
  std::vector<MergeTask> merges;
  if (chooses(input.decode, tokens) && p_.rehearsal->chooses_in(layer)) {
    merges.push_back({0, 0, attend_chosen(layer, input, attend, tokens)});
  } else {
    const int first = attend_spans(layer, input, attend, first_position);
    if (input.decode) merges.push_back({0, first, span_count(tokens) - first});
    for (int row = 0; !input.decode && row < rows; ++row) merges.push_back({row, row, 1});
    // Once more: what a query gives to each span is known when it has seen all.
    if (!input.decode && p_.rehearsal != nullptr && p_.rehearsal->adds_up(layer)) {
      each_group(layer, tokens, [&](std::span<const KvSpan> spans) {
        p_.rehearsal->add_up(layer, input.sequence, q_, first_position, spans, p_.workspace.states.slice_rows(0, rows));
      });
    }
  }
  pack(layer);
  p_.ops.merge_for_matmul(p_.compute, p_.workspace.states, attend, merges, attn_);
  made_for_matmul_ = true;
  p_.kv_feed.settle(layer, p_.compute);
}

// Reads what the layer has chosen; where no earlier layer could foretell its query, it chooses now. Returns the number
// of states. To check what is missing everything is read too, and the last of the two readings is the answer.
int Pass::attend_chosen(int layer, const PassInput& input, const AttendShape& shape, int tokens) {
  Rehearsal& r = *p_.rehearsal;
  r.choose_truly(layer, input.sequence, q_, tokens);
  const bool checks = r.checks(layer, tokens);
  int states = 0;
  const auto read = [&](bool all) {
    if (all) {
      attend_spans(layer, input, shape, tokens - 1);
      states = span_count(tokens);
    } else {
      states = r.attend(layer, input.sequence, q_, shape, p_.workspace.states, tokens);
    }
    if (checks) r.look_at(p_.workspace.states.slice_rows(0, states), all);
  };
  if (checks) read(!r.answers_by_all());
  read(r.answers_by_all());
  if (checks) r.count_missed();
  return states;
}

// Reads everything that the queries see, as it arrives. Returns the first span of a decode step.
int Pass::attend_spans(int layer, const PassInput& input, const AttendShape& shape, int first_position) {
  const int rows = static_cast<int>(q_.rows), tokens = first_position + rows;
  const int first = first_seen(shape.window, tokens);
  std::vector<SpanTask> tasks;
  bool fresh = true;
  each_group(layer, tokens, [&](std::span<const KvSpan> spans) {
    if (input.decode) {
      tasks.clear();
      for (const KvSpan& span : spans) {
        if (span.first_position + span.tokens <= first) continue;
        tasks.push_back({.span = span,
                         .row = 0,
                         .slot = span.first_position / kSpanTokens,
                         .first_token = std::max(0, first - span.first_position)});
      }
      p_.ops.attend(p_.compute, q_, shape, tasks, p_.workspace.states);
    } else {
      p_.ops.attend_chunk(p_.compute, q_, first_position, shape, spans, p_.workspace.states.slice_rows(0, rows), fresh);
    }
    fresh = false;
  });
  return first / kSpanTokens;
}

// Each is read as it arrives.
void Pass::each_group(int layer, int tokens, const std::function<void(std::span<const KvSpan>)>& read) {
  for (int left = p_.kv_feed.groups(layer); left > 0; --left) {
    KvGroup group = p_.kv_feed.next(layer, tokens);
    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());
    read(group.spans);
    if (group.lease.moves()) group.lease.release(p_.compute.record());
  }
}

// Pages that this pass has filled, and read as they were written: before any byte of them leaves the device.
void Pass::pack(int layer) {
  const KvPacking packing = p_.kv.pack(layer);
  if (packing.runs.empty()) return;
  const TraceRange range(track_, "seal");
  for (const Event& event : packing.after) p_.compute.wait_for(event);
  p_.ops.seal(p_.compute, p_.kv.layout().format_of(layer), packing.runs);
  if (p_.rehearsal != nullptr && p_.rehearsal->chooses_in(layer)) p_.rehearsal->keep_heads(layer, packing);
}

// What a pass begins with: the tokens' embeddings, where these are the model's first layers, and the angles.
void Pass::load_inputs(const PassInput& input, int first_position) {
  const TraceRange range(track_, "inputs");
  half_free_[half_].wait();
  std::byte* host = p_.host_inputs.data() + half_ * p_.workspace.host_half_bytes();
  copy_angles(first_position, static_cast<int>(input.tokens.size()), host + p_.workspace.rope_offset());
  if (p_.spec.has_embedding()) embed(input, first_position, host);
  half_free_[half_] = p_.compute.record();
  half_ ^= 1;
}

// Embedding rows are read from the file as they are asked for, one for each token; the table itself is never resident.
void Pass::embed(const PassInput& input, int first_position, std::byte* host) {
  const Workspace& w = p_.workspace;
  const int rows = static_cast<int>(input.tokens.size());
  const auto rows_of = [&](const TensorInfo& table, int row, int64_t index, const View& into, std::byte* at) {
    p_.checkpoint.files[table.extent.file].read(table.extent.offset + index * into.stride,
                                                {at + row * into.stride, into.stride});
  };
  std::byte* positions = host + w.positions_offset();
  for (int row = 0; row < rows; ++row) {
    rows_of(p_.spec.token_embedding, row, input.tokens[row], w.rows, host);
    if (w.positions.rows == 0) continue;
    rows_of(p_.spec.position_embedding, row, first_position + row + p_.spec.position_offset, w.positions, positions);
  }
  p_.compute.copy_few(w.rows.data, host, rows * w.rows.stride);
  if (w.positions.rows > 0) p_.compute.copy_few(w.positions.data, positions, rows * w.positions.stride);
  p_.ops.dequantize(p_.compute, w.rows.slice_rows(0, rows), x_);
  if (p_.spec.embedding_scale != 1.0f) p_.ops.scale(p_.compute, x_, p_.spec.embedding_scale);
  if (w.positions.rows == 0) return;
  p_.ops.dequantize(p_.compute, w.positions.slice_rows(0, rows), h_);
  p_.ops.add(p_.compute, x_, h_);
}

// Cosines and sines of the pass's positions, one table for each way that layers rotate.
void Pass::copy_angles(int first_position, int rows, std::byte* host) {
  const View& tables = p_.workspace.rope;
  for (size_t i = 0; i < rotations_.size(); ++i) {
    const View table = tables.slice_rows(tables.rows / static_cast<int64_t>(rotations_.size()) * i, rows);
    std::byte* at = host + (table.data - tables.data);
    rotations_[i].fill(first_position, rows, reinterpret_cast<float*>(at));
    p_.compute.copy_few(table.data, at, rows * table.stride);
  }
}

uint64_t Pass::input_bytes_per_token() const {
  const Workspace& w = p_.workspace;
  return (p_.spec.has_embedding() ? w.rows.stride + w.positions.stride : w.x.stride) +
         w.rope.stride * rotations_.size();
}

// Rows of logits beyond what the workspace holds at once cost another reading of the head.
int Pass::head_sweeps(int logit_rows) const {
  if (!p_.spec.has_head()) return 0;
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
    norm(x_.slice_rows(row, count), p_.vectors.output_norm, p_.vectors.output_norm_bias, h);
    project(Stage::head, 0, h, {logits}, false);
    on_logits(row, input.choice == nullptr ? logits : chosen(logits, *input.choice));
  }
}

View Pass::chosen(View logits, const RowChoice& choice) {
  const View& room = p_.workspace.chosen;
  const int floats = candidate_floats(choice.candidates.k);
  SPILLWAY_CHECK(logits.rows <= room.rows && floats <= room.cols);
  const View out = View::dense(room.data, DType::f32, logits.rows, floats);
  p_.ops.candidates(p_.compute, logits.slice_cols(0, choice.vocab), choice.candidates, out);
  return out;
}

}  // namespace spillway
