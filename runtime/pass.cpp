#include "runtime/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"

namespace spillway {
Pass::Pass(const PassParts& parts) : p_(parts), track_(Trace::track("host")) {
  for (const RopeSpec& rope : parts.spec.ropes) rotations_.emplace_back(rope, parts.positions);
  for (int layer = 0; layer < parts.spec.shape.layers; ++layer) {
    layer_names_.push_back(Trace::keep("layer " + std::to_string(parts.first_layer + layer)));
  }
  const int experts = parts.spec.shape.experts;
  expert_data_.resize(static_cast<size_t>(experts));
  chosen_.reserve(static_cast<size_t>(experts));
  for (int expert = 0; expert < experts; ++expert) all_experts_.push_back({expert, nullptr});
}

int PassInput::rows() const {
  size_t sum = 0;
  for (const PassPart& part : parts) sum += part.tokens.size();
  return static_cast<int>(sum);
}

int PassInput::logit_rows() const {
  int sum = 0;
  for (const PassPart& part : parts) sum += part.logit_rows;
  return sum;
}

bool PassInput::decodes() const {
  return std::all_of(parts.begin(), parts.end(), [](const PassPart& part) { return part.decode; });
}

Handover Pass::run(const PassInput& input, const Handover& from, const OnLogits& on_logits) {
  prompt_window_ = input.prompt_window;
  place_parts(input);
  const TraceRange range(track_, input.decodes() ? "decode" : "prefill");
  plan_feeds(input);
  next_unit_ = 0;
  next_expert_ = 0;
  made_for_matmul_ = false;
  p_.compute.wait_for(x_free_);
  load_inputs();
  if (from.free != nullptr) take_over(from);
  blocks(input);
  for (const Placed& one : parts_) p_.kv.advance(one.part.sequence, one.rows());
  expect(input.next);
  if (!p_.spec.has_head()) return {x_, p_.compute.record(), &x_free_};
  head(input, on_logits);
  return {};
}

// Steps of which only some will choose share no pass, so of which of them the next one is, is not known.
void Pass::expect(const NextPass& next) {
  if (next.sequences.empty()) return;
  const auto chooses = [&](SequenceId sequence) {
    return next.decodes && p_.rehearsal != nullptr && p_.rehearsal->chooses(p_.kv.tokens(sequence) + 1);
  };
  const SequenceId first = next.sequences.front();
  const bool alike = std::all_of(next.sequences.begin(), next.sequences.end(),
                                 [&](SequenceId sequence) { return chooses(sequence) == chooses(first); });
  if (alike) p_.kv_feed.begin_pass(next.sequences, reading(next.decodes, p_.kv.tokens(first) + 1));
}

void Pass::place_parts(const PassInput& input) {
  const int rows = input.rows(), few = p_.ops.few_rows();
  const Workspace& w = p_.workspace;
  SPILLWAY_CHECK(rows > 0 && rows <= w.x.rows && (input.parts.size() == 1 || input.observer == nullptr));
  parts_.clear();
  sequences_.clear();
  few_rows_ = 0;
  int row = 0;
  for (const PassPart& part : input.parts) {
    parts_.push_back({part, row, p_.kv.tokens(part.sequence)});
    sequences_.push_back(part.sequence);
    SPILLWAY_CHECK(!part.tokens.empty() && (!part.decode || part.tokens.size() == 1));
    if (static_cast<int>(part.tokens.size()) <= few) {
      SPILLWAY_CHECK(few_rows_ == row);
      few_rows_ += static_cast<int>(part.tokens.size());
    }
    row += static_cast<int>(part.tokens.size());
  }
  find_choosers();
  head_together_ = input.any_kernel || few == 0;
  all_together_ = head_together_ || few_rows_ == 0 || (few_rows_ == rows && rows <= few);
  x_ = w.x.slice_rows(0, rows);
  h_ = w.h.slice_rows(0, rows);
  q_ = w.q.slice_rows(0, rows);
  k_ = w.k.slice_rows(0, rows);
  v_ = w.v.slice_rows(0, rows);
  attn_ = w.attn.slice_rows(0, rows);
  gate_ = w.gate.slice_rows(0, rows);
  up_ = w.up.slice_rows(0, rows);
}

void Pass::plan_feeds(const PassInput& input) {
  const bool another = input.next.logit_rows != NextPass::kNone;
  p_.weight_feed.begin_pass(head_sweeps(input.logit_rows()),
                            another ? head_sweeps(input.next.logit_rows) : WeightFeed::kNoPass);
  const Placed& first = parts_.front();
  p_.kv_feed.begin_pass(sequences_, reading(first.part.decode, first.tokens()));
}

void Pass::take_over(const Handover& from) {
  Event ready = from.ready;
  ready.arrival = arrival_of(Link::host_to_device, Cause::activations);
  p_.compute.wait_for(ready);
  p_.compute.copy(x_.data, from.x.data, static_cast<uint64_t>(x_.rows) * x_.stride);
  *from.free = p_.compute.record();
}

void Pass::blocks(const PassInput& input) {
  struct Layers {
    Ops& ops;
    ~Layers() { ops.end_layers(); }
  } layers{p_.ops};
  const bool decodes = input.decodes();
  for (int layer = 0; layer < p_.spec.shape.layers; ++layer) {
    if (decodes) p_.ops.begin_layer(p_.compute, layer);
    block(layer, input);
  }
}

// One layer (Llama, arXiv 2302.13971, section 2.2; what other families add is nothing where a model has it not). Only
// attention knows of parts.
void Pass::block(int layer, const PassInput& input) {
  const TraceRange range(track_, layer_names_[layer]);
  const LayerVectors& v = p_.vectors.layers[layer];
  const int foretold = choosers_.empty() ? -1 : p_.rehearsal->foretold_by(layer);
  if (foretold >= 0) foretell(foretold);
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
  append(layer, input);
  attend(layer);
  contribute(Stage::attn_out, layer, attn_, v.attn_out_bias, v.attn_post_norm);
  if (p_.spec.layers[layer].has_experts()) {
    norm(x_, v.ffn_norm, v.ffn_norm_bias, h_);
    mix_experts(layer);
  } else {
    norm_for_matmul(x_, v.ffn_norm, v.ffn_norm_bias, h_);
    feed_forward(layer);
  }
  for (const Rehearsal::Step& step : choosers_) {
    if (foretold >= 0) p_.rehearsal->fetch(foretold, step);
  }
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
// 2.1). An expert's kernel follows from the rows that go to it: so parts that keep theirs go one by one.
void Pass::mix_experts(int layer) {
  project(Stage::router, layer, h_, {p_.workspace.router.slice_rows(0, h_.rows)}, false);
  if (head_together_ || parts_.size() == 1) {
    const bool decode = std::all_of(parts_.begin(), parts_.end(), [](const Placed& one) { return one.part.decode; });
    mix_experts(layer, 0, static_cast<int>(h_.rows), decode);
  } else {
    for (const Placed& one : parts_) mix_experts(layer, one.first_row, one.rows(), one.part.decode);
  }
  next_expert_ += p_.spec.shape.experts;
}

// Where all experts are on the device, the host need not know which are asked for.
void Pass::mix_experts(int layer, int first_row, int count, bool decode) {
  const View logits = p_.workspace.router.slice_rows(first_row, count), h = h_.slice_rows(first_row, count);
  ExpertRoutes routes = p_.workspace.routes;
  routes.rows = count;
  const View rows = p_.workspace.expert_rows.slice_rows(0, routes.places());
  const TraceRange range(track_, kStageNames[static_cast<int>(Stage::experts)]);
  p_.ops.route(p_.compute, logits, h, p_.spec.expert_weights_norm, routes, rows);
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
  p_.ops.combine(p_.compute, routes, rows, x_.slice_rows(first_row, count));
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

// Where kernels of few rows and of many round differently, each row has those of its part; and the head those of few,
// for how many rows of logits are computed at once follows from the budget, and may not change them.
void Pass::multiply(Stage stage, View x, std::span<const MatmulPart> parts, bool more) {
  if (stage == Stage::head ? head_together_ : all_together_) {
    return more ? p_.ops.matmul_more(p_.compute, x, parts) : p_.ops.matmul(p_.compute, x, parts);
  }
  const int64_t of_few = stage == Stage::head ? x.rows : few_rows_;
  for (int64_t row = 0; row < of_few; row += p_.ops.few_rows()) {
    multiply_rows(x, parts, row, std::min<int64_t>(p_.ops.few_rows(), of_few - row));
  }
  if (of_few < x.rows) multiply_rows(x, parts, of_few, x.rows - of_few);
}

void Pass::multiply_rows(View x, std::span<const MatmulPart> parts, int64_t row, int64_t rows) {
  MatmulPart some[kMostMatmulParts];
  for (size_t i = 0; i < parts.size(); ++i) {
    some[i] = {parts[i].weight, parts[i].out.slice_rows(row, rows), parts[i].add};
  }
  p_.ops.matmul(p_.compute, x.slice_rows(row, rows), {some, parts.size()});
}

// Rows of logits beyond what the workspace holds at once cost another reading of the head.
int Pass::head_sweeps(int logit_rows) const {
  if (!p_.spec.has_head()) return 0;
  return static_cast<int>((logit_rows + p_.workspace.logits.rows - 1) / p_.workspace.logits.rows);
}

void Pass::head(const PassInput& input, const OnLogits& on_logits) {
  const uint32_t head_unit = next_unit_;
  const int wanted = input.logit_rows();
  const int at_once = static_cast<int>(p_.workspace.logits.rows);
  for (int first = 0; first < wanted; first += at_once) {
    const int count = std::min(at_once, wanted - first);
    const View h = h_.slice_rows(0, count);
    const View logits = p_.workspace.logits.slice_rows(0, count);
    next_unit_ = head_unit;
    norm_wanted(first, h);
    project(Stage::head, 0, h, {logits}, false);
    on_logits(first, input.choice == nullptr ? logits : chosen(logits, *input.choice));
  }
}

// Rows [first, first + out.rows) of those that logits are wanted of, side by side.
void Pass::norm_wanted(int first, View out) {
  const int end = first + static_cast<int>(out.rows);
  int before = 0;  // wanted rows of the parts before
  for (const Placed& one : parts_) {
    const int begin = std::max(first, before), last = std::min(end, before + one.part.logit_rows);
    if (begin < last) {
      const int row = one.first_row + one.rows() - one.part.logit_rows + (begin - before);
      norm(x_.slice_rows(row, last - begin), p_.vectors.output_norm, p_.vectors.output_norm_bias,
           out.slice_rows(begin - first, last - begin));
    }
    before += one.part.logit_rows;
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
