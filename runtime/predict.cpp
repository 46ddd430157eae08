#include "runtime/predict.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "memory/kv/layout.h"
#include "prefetch/kv_feed.h"
#include "prefetch/schedule.h"
#include "runtime/simulate.h"
#include "runtime/weight_units.h"

namespace spillway {
namespace {

constexpr double kMostPlayed = 1 << 14;  // groups of KV, of all layers
constexpr double kLeastPlayed = 64;      // of one

// A pass cut where it waits: what arrives from elsewhere, in order, and what is computed from one arrival to the next.
struct Pass {
  struct Stop {
    uint64_t bytes;    // of the ring
    double fetch_s;    // on the slower of the ways it takes
    double latency_s;  // until its first byte comes
    double compute_s;  // of what reads it, and of all that is resident up to the next
  };
  std::vector<Stop> stops;
  double resident_s = 0;  // computed before the first stop
};

// Fetches of two passes in a row through a ring; the second one's seconds, the ring being full when it begins.
double steady_seconds(const Pass& pass, uint64_t ring_bytes, int lookahead) {
  double compute = pass.resident_s;
  for (const Pass::Stop& stop : pass.stops) compute += stop.compute_s;
  if (pass.stops.empty()) return compute;
  RingPlanner ring(ring_bytes, lookahead);
  std::vector<Fetch> fetches;
  std::vector<double> fetch_s, step_s, latency_s;
  fetches.reserve(2 * pass.stops.size());
  for (std::vector<double>* seconds : {&fetch_s, &step_s, &latency_s}) seconds->reserve(2 * pass.stops.size());
  for (int round = 0; round < 2; ++round) {
    ring.rewind();
    for (const Pass::Stop& stop : pass.stops) {
      fetches.push_back(ring.place(0, stop.bytes, static_cast<int64_t>(fetches.size())));
      fetch_s.push_back(stop.fetch_s);
      step_s.push_back(stop.compute_s);
      latency_s.push_back(stop.latency_s);
    }
    step_s.back() += pass.resident_s;  // of the pass that follows
  }
  const Simulation sim = simulate(fetches, fetch_s, step_s, latency_s);
  return sim.seconds - sim.step_end[pass.stops.size() - 1];
}

// Seconds of compute by bytes, types and calls, as the limits have them.
class Costs {
 public:
  explicit Costs(const Limits& limits) : limits_(limits) {}

  // One row, and many.
  double read_s(const WeightUnit& unit) const {
    double seconds = 0;
    for (const WeightSlice& slice : unit.slices) {
      seconds += static_cast<double>(slice.rows) * static_cast<double>(row_bytes(slice.dtype, slice.cols)) /
                 limits_.decode_speed(slice.dtype);
    }
    return seconds;
  }
  double multiply_s(const WeightUnit& unit, double rows) const {
    double seconds = 0;
    for (const WeightSlice& slice : unit.slices) {
      seconds += 2 * rows * static_cast<double>(slice.rows) * static_cast<double>(slice.cols) /
                 limits_.prefill_speed(slice.dtype);
    }
    return seconds;
  }
  // Beside its weights: norms, products, biases, rotation, attention, activation; each further unit of a projection is
  // a call more.
  double layer_calls_s(int layers, size_t units) const {
    const int further = std::max(0, static_cast<int>(units) - kProjections * layers);
    return (kCalls * layers + further) * limits_.call_s;
  }
  double head_calls_s() const { return 2 * limits_.call_s; }

  // What `rows` rows read of the experts, and what of that has to be fetched, if any expert is as likely as another:
  // where some are more popular, the slots hold those.
  struct Experts {
    double read_s = 0, multiply_s = 0, disk_bytes = 0, link_bytes = 0;
  };
  Experts experts(const Plan& plan, const ModelShape& shape, int rows) const {
    Experts sum;
    if (plan.expert_units.empty()) return sum;
    const double chosen = shape.experts_used / static_cast<double>(shape.experts);  // for one row
    const double read = 1 - std::pow(1 - chosen, rows);
    const auto count = static_cast<double>(plan.expert_units.size());
    const double fetched = plan.moves_experts() ? read * (1 - plan.expert_device_slots / count) : 0;
    const double from_disk = plan.expert_tier == Tier::disk ? fetched * (1 - plan.expert_host_slots / count) : 0;
    for (const WeightUnit& unit : plan.expert_units) {
      const auto bytes = static_cast<double>(unit.bytes);
      sum.read_s += read * read_s(unit);
      sum.disk_bytes += from_disk * bytes;
      sum.link_bytes += (fetched - from_disk) * bytes;
      // Of few rows each: at least its weights are read.
      sum.multiply_s += std::max(multiply_s(unit, chosen * rows), read * read_s(unit));
    }
    return sum;
  }

 private:
  static constexpr int kCalls = 10;
  static constexpr int kProjections = 4;  // of a layer: units at least

  const Limits& limits_;
};

// Of what a decode step chooses, the share that is not in the hot set: measured on two models with hot sets of once,
// one and a half times and twice the choice (73 to 79, 84 to 89 and 89 to 93 % were there).
double missed_share(const SelectionPlan& plan) {
  const double size = plan.hot_slots == 0 ? 2 : static_cast<double>(plan.hot_slots) / (plan.most * plan.together());
  return size <= 1.5 ? std::lerp(0.25, 0.14, 2 * (size - 1)) : std::max(0.1, std::lerp(0.14, 0.1, 2 * (size - 1.5)));
}

// KV that a decode step of so many positions and sequences reads, and what of that has to be fetched, in bytes.
struct KvBytes {
  double read = 0, from_host = 0, from_disk = 0;
  std::vector<double> fetched;                        // of each layer, group by group
  double chosen_from_host = 0, chosen_from_disk = 0;  // granule by granule; a drive reads blocks
};

KvBytes kv_bytes(const Plan& plan, const ModelSpec& spec, int positions, int sequences) {
  const KvLayout& layout = plan.kv_layout;
  const int rows = page_rows(positions), all_rows = page_rows(plan.context);
  const auto host = static_cast<double>(layout.bytes(plan.kv_host_slots));
  const auto disk = static_cast<double>(layout.bytes(plan.kv_disk_slots));
  const GranuleChoice choice =
      plan.selection.on() ? granule_choice(plan.selection.wishes, plan.positions) : GranuleChoice{};
  KvBytes sum{.read = static_cast<double>(layout.bytes(layout.slots_of(rows))) +
                      static_cast<double>(plan.selection.partial_keys) * rows / all_rows};
  double outside = 0, fetched = 0, granules = 0, blocks = 0;
  for (int layer = 0; layer < layout.layers; ++layer) {
    const bool packed = layout.packs(layer);
    const auto row_bytes = static_cast<double>(layout.row_bytes(packed));
    if (layout.chooses(layer)) {
      sum.read -= rows * row_bytes * (choice.granules - choice.count) / choice.granules;
      outside += std::max(0, all_rows - plan.kv_choosing_rows_per_layer) * row_bytes;
      sum.fetched.push_back(0);
      const uint64_t granule = layout.granule_bytes(packed);
      // Of what is kept all is there, but for what has just left the device.
      const double missed = sequences * layout.format.kv_heads *
                            (plan.selection.wishes.lets_go() ? 1.0 / layout.chosen.granule_tokens
                                                             : missed_share(plan.selection) * choice.count);
      granules += missed * static_cast<double>(granule);
      blocks +=
          missed * static_cast<double>(packed ? align_up(granule, kDiskAlign) : 2 * align_up(granule / 2, kDiskAlign));
      continue;
    }
    const int window = spec.layers[static_cast<size_t>(layer)].window;
    if (window > 0) sum.read -= std::max(0, rows - page_rows(window)) * row_bytes;
    // The oldest rows leave the device; spans that a window has passed do not come back: half of one is not seen.
    const int wanted = window > 0 ? std::min(rows, page_rows(window) + kPagesPerSpan / 2) : rows;
    outside += std::max(0, all_rows - plan.kv_device_rows_per_layer) * row_bytes;
    sum.fetched.push_back(std::max(0, wanted - plan.kv_device_rows_per_layer) * row_bytes);
    fetched += sum.fetched.back();
  }
  const double share = outside > 0 ? fetched / outside : 0;
  sum.from_host = share * host;
  sum.from_disk = share * disk;
  if (host + disk > 0) {
    sum.chosen_from_host = granules * host / (host + disk);
    sum.chosen_from_disk = blocks * disk / (host + disk);
  }
  return sum;
}

class Predictor {
 public:
  Predictor(const Plan& plan, const ModelSpec& spec, const Limits& limits)
      : plan_(plan), spec_(spec), limits_(limits), costs_(limits), head_begin_(plan.units.size()) {
    while (head_begin_ > 0 && plan.units[head_begin_ - 1].stage == Stage::head) --head_begin_;
  }

  // Of a step of all sequences that share a pass, at full context.
  Expected decode() const {
    Expected e;
    const int together = plan_.selection.on() ? plan_.selection.together() : plan_.batch;
    const double passes = static_cast<double>(plan_.batch) / together;
    const PassLoad load{
        .decoded = together, .logit_rows = together, .positions = static_cast<int>(plan_.context / passes)};
    const double seconds = passes * step(load, before(), e);
    for (double* s : {&e.disk_s, &e.link_s, &e.compute_s}) *s *= passes;
    for (uint64_t* bytes : {&e.disk_bytes, &e.link_bytes}) {
      *bytes = static_cast<uint64_t>(passes * static_cast<double>(*bytes));
    }
    const double most = std::max({e.compute_s, e.disk_s, e.link_s});
    e.bound = most == e.compute_s ? "compute" : most == e.disk_s ? "disk" : "link";
    e.decode_tps = plan_.batch / seconds;
    return e;
  }

  // Seconds of a pass, those of each resource in `e`; after the layers that another unit computes in full passes.
  double step(const PassLoad& load, const Expected* cpu, Expected& e) const {
    const int rows = load.decoded + load.prefilled, sweeps = head_sweeps(load.logit_rows);
    Pass pass;
    const double layers_scale = Limits::scale_of(limits_.rows_scale, rows);
    double calls_s = layers_scale * layer_calls_s();
    for (size_t i = 0; i < head_begin_; ++i) add(pass, i, layers_scale * layer_unit_s(plan_.units[i], load), e);
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      const int count = std::min(logits_at_once(), load.logit_rows - sweep * logits_at_once());
      const int multiplied = sweep == 0 ? count : count + 1;  // the first row of all is what reading takes
      const double head_scale = Limits::scale_of(limits_.head_rows_scale, multiplied);
      calls_s += head_scale * limits_.head_scale * costs_.head_calls_s();
      for (size_t i = head_begin_; i < plan_.units.size(); ++i) {
        add(pass, i, head_scale * head_unit_s(plan_.units[i], multiplied), e);
      }
    }
    pass.resident_s += calls_s;
    e.compute_s += calls_s;
    const Costs::Experts experts = costs_.experts(plan_, spec_.shape, rows);
    const double experts_s = layers_scale * (rows == 1 ? limits_.decode_scale * experts.read_s
                                                       : std::max(limits_.decode_scale * experts.read_s,
                                                                  limits_.chunk_scale * experts.multiply_s));
    pass.resident_s += experts_s;
    e.compute_s += experts_s;
    const KvBytes kv =
        load.decoded > 0 ? kv_bytes(plan_, spec_, std::min(load.positions, plan_.context), load.decoded) : KvBytes{};
    const double attention_s = kv.read / limits_.kv_speed();
    e.disk_bytes += static_cast<uint64_t>(experts.disk_bytes + kv.from_disk + kv.chosen_from_disk);
    e.link_bytes += static_cast<uint64_t>(experts.link_bytes + kv.from_host + kv.chosen_from_host);
    if (plan_.staged) e.link_bytes += e.disk_bytes;
    if (cpu != nullptr) {
      pass.resident_s += load.decoded / cpu->decode_tps;
      e.compute_s += cpu->compute_s;
      e.disk_bytes += cpu->disk_bytes;
    }
    e.disk_s = static_cast<double>(e.disk_bytes) / limits_.disk_read;
    e.link_s = static_cast<double>(e.link_bytes) / limits_.link;
    e.compute_s += attention_s;

    // KV moves on a lane of its own, in turn with the weights: both share the ways.
    const double weights_s = steady_seconds(pass, plan_.weight_ring_bytes, plan_.lookahead);
    const double kv_s = kv_seconds(kv, weights_s, attention_s);
    return std::max({weights_s + attention_s + fetch_s(experts), kv_s, e.disk_s, e.link_s});
  }

  // Of one full chunk; the head is computed for its last row alone.
  double prefill_tps() const {
    Pass pass;
    for (size_t i = 0; i < plan_.units.size(); ++i) {
      const WeightUnit& unit = plan_.units[i];
      const bool head = unit.stage == Stage::head;
      add(pass, i,
          head ? limits_.head_scale * costs_.read_s(unit) : limits_.chunk_scale * costs_.multiply_s(unit, plan_.chunk));
    }
    const Costs::Experts experts = costs_.experts(plan_, spec_.shape, plan_.chunk);
    pass.resident_s += limits_.chunk_scale * experts.multiply_s;
    if (plan_.head) pass.resident_s += limits_.head_scale * costs_.head_calls_s();
    // A layer's experts arrive while those before are multiplied.
    const double seconds = std::max(steady_seconds(pass, plan_.weight_ring_bytes, plan_.lookahead), fetch_s(experts));
    const double tps = plan_.chunk / seconds;
    if (before() == nullptr) return tps;
    // Both units work at once, on chunks that follow one another; but where the device is emulated, on the same cores.
    const double other = before()->prefill_tps;
    return plan_.emulated_link ? 1 / (1 / tps + 1 / other) : std::min(tps, other);
  }

 private:
  // Rows of logits beyond those that there is room for cost another reading of the head.
  int logits_at_once() const { return std::max(plan_.logit_rows, 1); }
  int head_sweeps(int logit_rows) const {
    return plan_.head ? (logit_rows + logits_at_once() - 1) / logits_at_once() : 0;
  }
  // Where nothing in between was measured, chunks alone are multiplied as in prefill_tps(); few rows of one still have
  // the weights read.
  double layer_unit_s(const WeightUnit& unit, const PassLoad& load) const {
    const double read_s = limits_.decode_scale * costs_.read_s(unit);
    if (load.decoded > 0 || !limits_.rows_scale.empty())
      return read_s + further_rows_s(unit, load.decoded + load.prefilled);
    return std::max(read_s, limits_.chunk_scale * costs_.multiply_s(unit, load.prefilled));
  }
  // What each further row takes beside reading the weights: they are unpacked for all at once, then multiplied by each,
  // so that the two add up (on two cores 25 ms were foreseen so for 7 rows of a 135M model where 23 were measured, and
  // 61 for 24 where 71 were).
  double further_rows_s(const WeightUnit& unit, int rows) const {
    return limits_.chunk_scale * costs_.multiply_s(unit, rows - 1);
  }
  double head_unit_s(const WeightUnit& unit, int rows) const {
    return limits_.head_scale * costs_.read_s(unit) + further_rows_s(unit, rows);
  }
  double layer_calls_s() const {
    return limits_.decode_scale * costs_.layer_calls_s(plan_.last_layer - plan_.first_layer, head_begin_);
  }
  // Of a step whose KV comes group by group through a ring of its own, between what layers compute.
  double kv_seconds(const KvBytes& kv, double weights_s, double attention_s) const {
    const double all = std::accumulate(kv.fetched.begin(), kv.fetched.end(), 0.0);
    if (all <= 0) return 0;
    const double disk_s = kv.from_disk / limits_.disk_read;
    const double link_s = (kv.from_host + (plan_.staged ? kv.from_disk : 0)) / limits_.link;
    const double per_byte = std::max(disk_s, link_s) / all;
    const auto layers = static_cast<double>(kv.fetched.size());
    Pass pass;
    for (size_t layer = 0; layer < kv.fetched.size(); ++layer) {
      const double bytes = kv.fetched[layer];
      if (bytes > 0) {
        const uint64_t row = plan_.kv_layout.row_bytes(plan_.kv_layout.packs(static_cast<int>(layer)));
        const uint64_t span = std::min(kPagesPerSpan, page_rows(plan_.context)) * row;
        const uint64_t most = std::max<uint64_t>(plan_.kv_ring_bytes / KvFeed::kGroupsInRing / span, 1) * span;
        const double groups = std::ceil(bytes / static_cast<double>(most));
        // Of very many each that is played stands for several, all its seconds so many times as long.
        const double played = std::min(groups, std::max(kLeastPlayed, std::floor(kMostPlayed / layers)));
        const double latency_s = kv.from_disk > 0 ? limits_.disk_latency_s * groups / played : 0;
        for (double group = 0; group < played; ++group) {
          pass.stops.push_back({static_cast<uint64_t>(bytes / groups), per_byte * bytes / played, latency_s,
                                attention_s / layers / played});
        }
      }
      const double rest_s = weights_s / layers + (bytes > 0 ? 0 : attention_s / layers);
      (pass.stops.empty() ? pass.resident_s : pass.stops.back().compute_s) += rest_s;
    }
    return steady_seconds(pass, plan_.kv_ring_bytes, plan_.lookahead);
  }

  double fetch_s(const Costs::Experts& experts) const {
    const double over_link = experts.link_bytes + (plan_.staged ? experts.disk_bytes : 0);
    return std::max(experts.disk_bytes / limits_.disk_read, over_link / limits_.link);
  }

  // Of the layers before these, which another unit computes.
  const Expected* before() const { return plan_.before.empty() ? nullptr : &plan_.before.front().expected; }
  void add(Pass& pass, size_t unit, double compute_s, Expected& e) const {
    add(pass, unit, compute_s);
    e.compute_s += compute_s;
    if (plan_.unit_tiers[unit] == Tier::disk) e.disk_bytes += plan_.units[unit].bytes;
    if (plan_.unit_tiers[unit] == Tier::host) e.link_bytes += plan_.units[unit].bytes;
  }
  void add(Pass& pass, size_t unit, double compute_s) const {
    const uint64_t bytes = plan_.units[unit].bytes;
    if (plan_.unit_tiers[unit] == Tier::device) {
      (pass.stops.empty() ? pass.resident_s : pass.stops.back().compute_s) += compute_s;
      return;
    }
    const bool disk = plan_.unit_tiers[unit] == Tier::disk;
    const double disk_s = disk ? static_cast<double>(bytes) / limits_.disk_read : 0;
    const double link_s = !disk || plan_.staged ? static_cast<double>(bytes) / limits_.link : 0;
    pass.stops.push_back({bytes, std::max(disk_s, link_s), disk ? limits_.disk_latency_s : 0, compute_s});
  }

  const Plan& plan_;
  const ModelSpec& spec_;
  const Limits& limits_;
  Costs costs_;
  size_t head_begin_;  // among the units
};

bool known(const Limits& limits) {
  return limits.disk_read > 0 && limits.link > 0 && limits.weight_bytes > 0 && limits.prefill_flops > 0;
}

}  // namespace

double Limits::scale_of(const std::map<int, double>& by_rows, int rows) {
  const auto above = by_rows.lower_bound(rows);
  if (above == by_rows.end()) return by_rows.empty() ? 1 : std::prev(above)->second;
  if (above->first == rows || above == by_rows.begin()) return above->second;
  const auto below = std::prev(above);
  const double part =
      std::log(static_cast<double>(rows) / below->first) / std::log(static_cast<double>(above->first) / below->first);
  return std::lerp(below->second, above->second, part);
}

void calibrate(Limits& limits, const ModelSpec& spec, const Checkpoint& checkpoint, const LayerTimes& times) {
  constexpr uint64_t kWhole = uint64_t{1} << 40;
  const ModelSpec part = spec.stretch(0, times.layers, true);
  Plan plan;  // everything on the device
  plan.expert_units = cut_expert_units(part, checkpoint);
  const Costs costs(limits);
  const Costs::Experts one = costs.experts(plan, part.shape, 1), chunk = costs.experts(plan, part.shape, times.chunk);
  double decode_s = costs.layer_calls_s(times.layers, 0) + one.read_s;
  double head_s = costs.head_calls_s(), chunk_s = chunk.multiply_s, head_row_s = 0;
  for (const WeightUnit& unit : cut_weight_units(part, checkpoint, kWhole)) {
    const bool head = unit.stage == Stage::head;
    (head ? head_s : decode_s) += costs.read_s(unit);
    (head ? head_row_s : chunk_s) += costs.multiply_s(unit, head ? 1 : times.chunk);
  }
  if (decode_s > 0) limits.decode_scale = times.decode_s / decode_s;
  if (head_s > 0 && times.head_s > 0) limits.head_scale = times.head_s / head_s;
  if (chunk_s > 0) limits.chunk_scale = times.chunk_s / chunk_s;
  if (times.rows_s.empty()) return;
  limits.rows_scale[1] = 1;
  const auto set = [&](int rows, double seconds) {
    // As Predictor::step() has it: the experts' part follows its own rule.
    const Costs::Experts some = costs.experts(plan, part.shape, rows);
    const double experts_s = std::max(limits.decode_scale * some.read_s, limits.chunk_scale * some.multiply_s);
    const double rest_s = times.decode_s - limits.decode_scale * one.read_s +
                          limits.chunk_scale * (chunk_s - chunk.multiply_s) * (rows - 1) / times.chunk;
    limits.rows_scale[rows] = seconds / (rest_s + experts_s);
  };
  for (const auto& [rows, seconds] : times.rows_s) set(rows, seconds);
  set(times.chunk, times.chunk_s);
  if (times.head_s <= 0) return;
  limits.head_rows_scale[1] = 1;
  for (const auto& [rows, seconds] : times.head_rows_s) {
    limits.head_rows_scale[rows] = seconds / (times.head_s + limits.chunk_scale * head_row_s * (rows - 1));
  }
}

Expected predict(const Plan& plan, const ModelSpec& spec, const Limits& limits) {
  if (!plan.before.empty() && plan.before.front().expected.bound.empty()) return {};
  if (!known(limits)) return {};
  const Predictor predictor(plan, spec, limits);
  Expected expected = predictor.decode();
  expected.prefill_tps = predictor.prefill_tps();
  return expected;
}

double predict_pass(const Plan& plan, const ModelSpec& spec, const Limits& limits, const PassLoad& load) {
  if (!known(limits) || load.decoded + load.prefilled < 1) return 0;
  Expected of_resources;
  return Predictor(plan, spec, limits).step(load, nullptr, of_resources);
}

}  // namespace spillway
