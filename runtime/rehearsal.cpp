#include "runtime/rehearsal.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace spillway {
namespace {

// Directions that are the numbers of a key themselves, the first `rank` of them.
HostKeyBasis plain_basis(const KvFormat& format, int rank) {
  HostKeyBasis basis;
  basis.keys.assign(static_cast<size_t>(format.kv_heads) * rank * format.head_dim, 0.0f);
  for (int row = 0; row < format.kv_heads * rank; ++row) {
    basis.keys[static_cast<size_t>(row) * format.head_dim + static_cast<size_t>(row % rank)] = 1.0f;
  }
  basis.queries = basis.keys;
  basis.mean.assign(static_cast<size_t>(format.kv_heads) * format.head_dim, 0.0f);
  return basis;
}

}  // namespace

Rehearsal::Rehearsal(const RehearsalParts& parts)
    : p_(parts), only_check_(parts.plan.wishes.only_check), track_(Trace::track("host")) {
  const KvLayout& layout = parts.kv.layout();
  const KvFormat& format = layout.format;
  const int rank = layout.chosen.partial.rank;
  const KvSelection& wishes = parts.plan.wishes;
  const SelectionRoom room{parts.plan.most, parts.context, wishes.ahead + 1, parts.plan.batch};
  SelectionWorkspace::cut(parts.spec, layout, room, parts.workspace.data(), &workspace_);
  host_ = SelectionHost::of(parts.spec, wishes, room, parts.host.data());
  chosen_.resize(static_cast<size_t>(host_.choices));
  queries_.resize(static_cast<size_t>(layout.layers));
  basis_.resize(static_cast<size_t>(layout.layers));
  owners_.assign(static_cast<size_t>(parts.plan.sequences), -1);
  for (int layer = 0, number = 0; layer < layout.layers; ++layer) {
    numbers_.push_back(number);
    number += layout.chooses(layer) ? 1 : 0;
  }
  if (rank == 0) return;
  std::byte* at = parts.query_matrices.data();
  int sets = 0;
  for (int layer = 0; layer < layout.layers; ++layer) {
    if (!layout.chooses(layer)) continue;
    std::byte* set = parts.directions.data() + static_cast<uint64_t>(sets) * direction_bytes(layout);
    if (direction_sets(layout, parts.skew) > 1) ++sets;
    const auto floats = [&set](int64_t rows, int64_t cols) {
      const View view = View::dense(set, DType::f32, rows, cols);
      set += row_bytes(DType::f32, cols) * static_cast<uint64_t>(rows);
      return view;
    };
    PartialKeyBasis& basis = basis_[layer];
    basis.keys = floats(int64_t{format.kv_heads} * rank, format.head_dim);
    basis.queries = floats(int64_t{format.kv_heads} * rank, format.head_dim);
    basis.mean = floats(format.kv_heads, format.head_dim);
    const TensorInfo matrix = query_matrix(parts.spec, parts.plan.wishes, parts.skew, layer);
    if (matrix.cols == 0) continue;
    queries_[layer].matrix = View::dense(at, matrix.dtype, matrix.rows, matrix.cols);
    at += align_up(matrix.extent.bytes, 64);
    const SkewLayer* kept = corrected(parts.spec, parts.plan.wishes, parts.skew, layer);
    if (kept != nullptr && kept->bias.cols > 0) {
      queries_[layer].bias = View::dense(at, DType::f32, 1, matrix.rows);
    }
    at += align_up(row_bytes(DType::f32, matrix.rows), 64);
  }
}

HostKeyBasis Rehearsal::basis_of(int layer) const {
  const KvLayout& layout = p_.kv.layout();
  if (p_.skew == nullptr || p_.plan.wishes.selector == KvSelector::oracle) {
    return plain_basis(layout.format, layout.chosen.partial.rank);
  }
  const int number = p_.spec.layers[layer].from_start;
  const int rank = layout.chosen.partial.rank;
  return p_.plan.wishes.selector == KvSelector::infinigen ? p_.skew->principal_basis(number, rank)
                                                          : p_.skew->basis(number, rank);
}

void Rehearsal::load(Device& device, const Checkpoint& model, std::span<std::byte> staging, Traffic& traffic) {
  WeightLoader loader(device, model, staging, traffic);
  const auto put = [&](const std::vector<float>& values, const View& place) {
    SPILLWAY_CHECK(static_cast<int64_t>(values.size()) == place.rows * place.cols);
    loader.put(std::as_bytes(std::span(values)), place.data);
  };
  std::vector<std::byte> read;
  for (size_t layer = 0; layer < queries_.size(); ++layer) {
    const int number = static_cast<int>(layer);
    if (!chooses_in(number) || basis_[layer].keys.rows == 0) continue;
    const HostKeyBasis basis = basis_of(number);
    put(basis.keys, basis_[layer].keys);
    put(basis.queries, basis_[layer].queries);
    put(basis.mean, basis_[layer].mean);
    const View matrix = queries_[layer].matrix;
    if (matrix.cols == 0) continue;
    const TensorInfo source = query_matrix(p_.spec, p_.plan.wishes, p_.skew, number);
    const int of_model = p_.spec.layers[layer].from_start;
    if (corrected(p_.spec, p_.plan.wishes, p_.skew, number) != nullptr) {
      read.resize(source.extent.bytes);
      p_.skew->read_matrix(of_model, 0, read);
      loader.put(read, matrix.data);
    } else {
      loader.load(source.extent, source.extent.bytes, {Tier::device, matrix.data}, Cause::weights);
    }
    if (queries_[layer].bias.data != nullptr) put(p_.skew->bias(of_model), queries_[layer].bias);
  }
  loader.finish();
}

bool Rehearsal::chooses(int tokens) const {
  return spillway::chooses(p_.plan.wishes, granule_choice(p_.plan.wishes, tokens));
}

KvReading Rehearsal::reading(int tokens) const {
  if (!chooses(tokens)) return {};
  const KvSelection& wishes = p_.plan.wishes;
  return {.chooses = true,
          .checked_layer = checked_layer(wishes, p_.kv.layout().chosen.layers, tokens),
          .checks_all = only_check_};
}

bool Rehearsal::checks(int layer, int tokens) const { return only_check_ || layer == reading(tokens).checked_layer; }

int Rehearsal::foretold_by(int layer) const {
  const int other = layer + p_.plan.wishes.ahead;
  return other < p_.kv.layout().layers && is_foretold(other) && chooses_in(other) ? other : -1;
}

AttendShape Rehearsal::shape_of(int layer) const {
  return {p_.kv.layout().format_of(layer), p_.spec.shape.heads, p_.spec.attention_scale, 0};
}

void Rehearsal::keep_keys(int layer, const KvGrowth& growth) {
  if (!scores()) return;
  runs_.clear();
  for (size_t i = 0; i < growth.runs.size(); ++i) {
    const AppendRun& run = growth.runs[i];
    runs_.push_back({run.page_row, growth.sidecars[i], run.first_token, run.count});
  }
  KvFormat format = p_.kv.layout().format;
  format.codec = KvCodec::f16;
  const KvChosen& chosen = p_.kv.layout().chosen;
  if (chosen.bounds) return p_.ops.key_bounds(p_.compute, format, chosen.granule_tokens, runs_);
  p_.ops.partial_keys(p_.compute, format, chosen.partial, basis_[layer], runs_);
}

// Without the scales of its keys, which all its tokens share, no granule of a page can be read by itself.
void Rehearsal::keep_heads(int layer, const KvPacking& packing) {
  const KvLayout& layout = p_.kv.layout();
  const PackedPage page = layout.format_of(layer).packed_page();
  if (page.header_bytes == 0) return;
  heads_.clear();
  for (size_t i = 0; i < packing.runs.size(); ++i) {
    for (int head = 0; head < layout.format.kv_heads; ++head) {
      heads_.push_back({packing.sidecars[i] + layout.partial_bytes() + static_cast<int64_t>(head) * page.header_bytes,
                        packing.runs[i].to + static_cast<int64_t>(head) * page.bytes(),
                        static_cast<uint64_t>(page.header_bytes)});
    }
  }
  p_.compute.gather(heads_);
}

View Rehearsal::ids_of(int slot, int count) const {
  const int heads = p_.spec.shape.kv_heads;
  return workspace_.ids.slice_rows(int64_t{slot} * heads, heads).slice_cols(0, count);
}

View Rehearsal::sums_of(int layer, SequenceId sequence) {
  auto owner = std::find(owners_.begin(), owners_.end(), sequence);
  if (owner == owners_.end()) owner = std::find(owners_.begin(), owners_.end(), -1);
  SPILLWAY_CHECK(owner != owners_.end());
  *owner = sequence;
  const KvLayout& layout = p_.kv.layout();
  std::byte* at = p_.sums.data() +
                  static_cast<uint64_t>(owner - owners_.begin()) * attention_sum_bytes(layout, p_.context) +
                  static_cast<uint64_t>(numbers_[layer]) * layer_sum_bytes(layout, p_.context);
  return View::dense(at, DType::f32, layout.format.kv_heads, workspace_.weights.cols);
}

void Rehearsal::forked(SequenceId from, SequenceId to) {
  const auto owner = std::find(owners_.begin(), owners_.end(), from);
  if (!p_.plan.wishes.adds_up() || owner == owners_.end()) return;
  const auto place = std::find(owners_.begin(), owners_.end(), -1);
  SPILLWAY_CHECK(place != owners_.end());
  *place = to;
  const uint64_t bytes = attention_sum_bytes(p_.kv.layout(), p_.context);
  p_.compute.copy(p_.sums.data() + static_cast<uint64_t>(place - owners_.begin()) * bytes,
                  p_.sums.data() + static_cast<uint64_t>(owner - owners_.begin()) * bytes, bytes);
}

void Rehearsal::closed(SequenceId sequence) { std::replace(owners_.begin(), owners_.end(), sequence, SequenceId{-1}); }

void Rehearsal::add_up(int layer, SequenceId sequence, View q, int first_position, int window,
                       std::span<const KvSpan> spans, View states) {
  AttendShape shape = shape_of(layer);
  shape.window = window;
  p_.ops.sum_attention(p_.compute, q, first_position, shape, spans, states, p_.kv.layout().chosen.granule_tokens,
                       sums_of(layer, sequence));
}

// Views of the same memory in every step, so that the calls can be replayed. The new token's own granule, where it is
// not scored, is among the newest, which no weight decides.
void Rehearsal::score(int layer, View q, int keys, View weights) {
  const KvLayout& layout = p_.kv.layout();
  const int size = layout.chosen.granule_tokens;
  if (layout.chosen.bounds) {
    const View scores = workspace_.scores.slice_cols(0, weights.cols);
    return p_.ops.score_bounds(p_.compute, q, shape_of(layer), rows_, keys, size, scores, weights);
  }
  const View scores = workspace_.scores.slice_cols(0, score_columns(layout.chosen.partial, keys));
  p_.ops.score_keys(p_.compute, q, shape_of(layer), layout.chosen.partial, basis_[layer], rows_, keys, size, scores,
                    weights);
}

void Rehearsal::choose(int layer, const Step& step, View q, int keys) {
  const KvSelection& wishes = p_.plan.wishes;
  if (wishes.keep == KvRetention::window) return;  // the host knows what is in it
  const TraceRange range(track_, "choose");
  GranuleChoice choice = granule_choice(wishes, step.tokens);
  View weights;
  if (wishes.adds_up()) {
    weights = sums_of(layer, step.sequence);
  } else {
    const int size = p_.kv.layout().chosen.granule_tokens;
    p_.kv.sidecars(step.sequence, layer, rows_);
    rows_.resize(static_cast<size_t>(page_rows(keys)));
    weights = workspace_.weights;
    choice.scored = (keys + size - 1) / size;
    score(layer, q, keys, weights.slice_cols(0, choice.scored));
    if (wishes.alpha > 0) choice.of_largest = static_cast<float>(std::exp(-wishes.alpha));
    const int group = p_.spec.shape.heads / p_.spec.shape.kv_heads;
    if (wishes.top_p > 0) choice.mass = static_cast<float>(wishes.top_p * group);
  }
  const int slot = slot_of(layer, step);
  const View ids = ids_of(slot, choice.count);
  p_.ops.choose_granules(p_.compute, weights.slice_cols(0, choice.granules), choice, ids);
  const uint64_t bytes = static_cast<uint64_t>(ids.rows) * ids.stride;
  p_.compute.copy(host_.ids(slot), ids.data, bytes);
  if (p_.far) p_.traffic.add(Link::device_to_host, Cause::activations, bytes);
  chosen_[slot] = p_.compute.record();
}

// The first ones and the last ones, of every KV head.
void Rehearsal::take_window(const GranuleChoice& choice) {
  for (int head = 0; head < p_.spec.shape.kv_heads; ++head) {
    for (int id = 0; id < choice.granules; ++id) {
      if (choice.count == choice.granules || id < choice.first || id >= choice.granules - choice.last) {
        ids_.push_back(id);
      }
    }
  }
}

void Rehearsal::fetch(int layer, const Step& step, Cause cause) {
  const GranuleChoice choice = granule_choice(p_.plan.wishes, step.tokens);
  ids_.clear();
  if (p_.plan.wishes.keep == KvRetention::window) {
    take_window(choice);
  } else {
    const TraceRange range(track_, "wait for the choice");
    const int slot = slot_of(layer, step);
    chosen_[slot].wait();
    for (int head = 0; head < p_.spec.shape.kv_heads; ++head) {
      const int32_t* row = host_.ids(slot) + int64_t{head} * p_.plan.most;
      ids_.insert(ids_.end(), row, row + choice.count);
    }
  }
  p_.feed.fetch({step.sequence, step.index}, layer, ids_, step.tokens, cause);
  // Where every step reads everything, to be looked at, nothing may go.
  if (p_.plan.wishes.lets_go() && !only_check_) let_go(layer, step.sequence, step.tokens);
}

// All choose before any is waited for.
void Rehearsal::choose_truly(int layer, std::span<const Step> steps, View q) {
  if (is_foretold(layer) && !p_.plan.wishes.repair) return;
  for (const Step& step : steps) choose(layer, step, q.slice_rows(step.index, 1), step.tokens);
  for (const Step& step : steps) fetch(layer, step, is_foretold(layer) ? Cause::kv_repair : Cause::kv_fetch);
}

// A page goes when no KV head keeps a token of it.
void Rehearsal::let_go(int layer, SequenceId sequence, int tokens) {
  const int in_row = kPageTokens / p_.kv.layout().chosen.granule_tokens;
  stays_.assign(static_cast<size_t>(page_rows(tokens)), false);
  for (const int32_t id : ids_) stays_[static_cast<size_t>(id / in_row)] = true;
  if (std::find(stays_.begin(), stays_.end(), false) == stays_.end()) return;
  p_.kv.let_go(sequence, layer, stays_, p_.compute.record());
}

int Rehearsal::attend(int layer, const Step& step, View q, const AttendShape& shape, View states) {
  const GranuleChoice choice = granule_choice(p_.plan.wishes, step.tokens);
  const int count = choice.count;
  const size_t places = static_cast<size_t>(count) * p_.kv.layout().format.kv_heads;
  table_free_[table_].wait();
  GranulePlace* table = host_.table(table_);
  const Event ready = p_.feed.places({step.sequence, step.index}, layer, {table, places});
  const uint64_t bytes = places * sizeof(GranulePlace);
  p_.compute.copy_few(workspace_.places, table, bytes);
  if (p_.far) p_.traffic.add(Link::host_to_device, Cause::activations, bytes);
  table_free_[table_] = p_.compute.record();
  table_ = (table_ + 1) % SelectionHost::kTables;
  p_.compute.wait_for(ready);
  const SelectedKv chosen{workspace_.places, count, p_.kv.layout().chosen.granule_tokens};
  p_.ops.attend_selected(p_.compute, q, shape, chosen, states.slice_rows(0, chosen.states()));
  if (p_.plan.wishes.adds_up()) {
    const View sums = sums_of(layer, step.sequence).slice_cols(0, choice.granules);
    p_.ops.sum_selected(p_.compute, q, shape_of(layer), chosen, ids_of(slot_of(layer, step), count),
                        states.slice_rows(0, chosen.states()), step.tokens, sums);
  }
  return chosen.states();
}

void Rehearsal::look_at(View states, bool all) {
  const uint64_t bytes = static_cast<uint64_t>(states.rows) * states.stride;
  SPILLWAY_CHECK(bytes <= host_.states);
  seen_[all ? 1 : 0] = states.rows;
  p_.compute.copy(host_.states_of(all), states.data, bytes);
  if (p_.far) p_.traffic.add(Link::device_to_host, Cause::kv_check, bytes);
}

// Logarithms of the sums of exponentials of all scores, and of those of the chosen tokens, from the parts of each.
void Rehearsal::count_missed() {
  p_.compute.record().wait();
  const ModelShape& shape = p_.spec.shape;
  const int floats = attn_state_floats(shape.head_dim);
  const auto log_sum = [&](bool all, int head) {
    const auto* states = reinterpret_cast<const float*>(host_.states_of(all)) + head * floats + shape.head_dim;
    const int64_t rows = seen_[all ? 1 : 0], stride = int64_t{shape.heads} * floats;
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t row = 0; row < rows; ++row) most = std::max(most, static_cast<double>(states[row * stride]));
    for (int64_t row = 0; row < rows; ++row) {
      const float* state = states + row * stride;
      if (state[1] > 0) sum += state[1] * std::exp(state[0] - most);
    }
    return most + std::log(sum);
  };
  for (int head = 0; head < shape.heads; ++head) {
    const double missed = -std::expm1(log_sum(false, head) - log_sum(true, head));
    missed_.sum += std::clamp(missed, 0.0, 1.0);
    ++missed_.heads;
  }
}

}  // namespace spillway
