#include "runtime/predict.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "memory/kv/layout.h"
#include "prefetch/schedule.h"
#include "runtime/simulate.h"

namespace spillway {
namespace {

// A pass cut where it waits: what arrives from elsewhere, in order, and what is computed from one arrival to the next.
struct Pass {
  struct Stop {
    uint64_t bytes;    // of the ring
    double fetch_s;    // on the slower of the ways it takes
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
  std::vector<double> fetch_s, step_s;
  for (int round = 0; round < 2; ++round) {
    ring.rewind();
    for (const Pass::Stop& stop : pass.stops) {
      fetches.push_back(ring.place(0, stop.bytes, static_cast<int64_t>(fetches.size())));
      fetch_s.push_back(stop.fetch_s);
      step_s.push_back(stop.compute_s);
    }
    step_s.back() += pass.resident_s;  // of the pass that follows
  }
  const Simulation sim = simulate(fetches, fetch_s, step_s);
  return sim.seconds - sim.step_end[pass.stops.size() - 1];
}

// Of what a decode step chooses and the device does not hold: measured on two models with a hot set of twice the choice
// (89 to 93 % were there).
constexpr double kMissed = 0.1;

// What a decode step at full context reads of the KV, and what of that comes from elsewhere.
struct KvReads {
  double read = 0, host = 0, disk = 0;  // bytes
};

KvReads kv_reads(const Plan& plan) {
  const KvLayout& layout = plan.kv_layout;
  const int rows = page_rows(plan.context);
  const double host_bytes = static_cast<double>(layout.bytes(plan.kv_host_slots));
  const double outside = host_bytes + static_cast<double>(layout.bytes(plan.kv_disk_slots));
  if (!plan.selection.on()) {
    return {static_cast<double>(layout.bytes(layout.slots_of(rows))), host_bytes, outside - host_bytes};
  }
  const GranuleChoice choice = granule_choice(plan.selection.wishes, plan.context);
  KvReads reads{.read = static_cast<double>(plan.selection.partial_keys)};
  double whole = 0, granules = 0,
         blocks = 0;  // bytes fetched; of single granules, as they are and as a drive reads them
  for (int layer = 0; layer < layout.layers; ++layer) {
    const bool packed = layout.packs(layer);
    const auto row = static_cast<double>(layout.row_bytes(packed));
    if (!layout.chooses(layer)) {
      reads.read += rows * row;
      whole += std::max(0, rows - plan.kv_device_rows_per_layer) * row;
      continue;
    }
    reads.read += rows * row * choice.count / choice.granules;
    if (outside == 0) continue;
    const uint64_t granule = layout.granule_bytes(packed);
    const double missed = kMissed * layout.format.kv_heads * choice.count;
    granules += missed * static_cast<double>(granule);
    blocks +=
        missed * static_cast<double>(packed ? align_up(granule, kDiskAlign) : 2 * align_up(granule / 2, kDiskAlign));
  }
  const double on_host = outside == 0 ? 0 : host_bytes / outside;
  reads.host = on_host * (whole + granules);
  reads.disk = (1 - on_host) * (whole + blocks);
  return reads;
}

class Predictor {
 public:
  Predictor(const Plan& plan, const ModelShape& shape, const Limits& limits)
      : plan_(plan), shape_(shape), limits_(limits), kv_(kv_reads(plan)) {}

  Expected decode() const {
    Expected e;
    Pass pass;
    pass.resident_s = e.compute_s = (kCalls * (plan_.last_layer - plan_.first_layer) + 2) * limits_.call_s;
    for (size_t i = 0; i < plan_.units.size(); ++i) {
      const WeightUnit& unit = plan_.units[i];
      add(pass, i, read_s(unit));
      e.compute_s += read_s(unit);
      if (plan_.unit_tiers[i] == Tier::disk) e.disk_bytes += unit.bytes;
      if (plan_.unit_tiers[i] == Tier::host) e.link_bytes += unit.bytes;
    }
    const Experts experts = experts_of(1);
    pass.resident_s += experts.read_s;
    e.compute_s += experts.read_s;
    e.disk_bytes += static_cast<uint64_t>(experts.disk_bytes);
    e.link_bytes += static_cast<uint64_t>(experts.link_bytes);
    const double attention_s = kv_.read / limits_.kv_speed();
    e.disk_bytes += static_cast<uint64_t>(kv_.disk);
    e.link_bytes += static_cast<uint64_t>(kv_.host);
    if (plan_.staged) e.link_bytes += e.disk_bytes;
    if (const Expected* cpu = before()) {
      pass.resident_s += 1.0 / cpu->decode_tps;
      e.compute_s += cpu->compute_s;
      e.disk_bytes += cpu->disk_bytes;
    }
    e.disk_s = static_cast<double>(e.disk_bytes) / limits_.disk_read;
    e.link_s = static_cast<double>(e.link_bytes) / limits_.link;
    e.compute_s += attention_s;

    // KV moves on a lane of its own, in turn with the weights: both share the ways.
    const double weights_s = steady_seconds(pass, plan_.weight_ring_bytes, plan_.lookahead);
    const double step = std::max({weights_s + attention_s + fetch_s(experts), e.disk_s, e.link_s});
    const double most = std::max({e.compute_s, e.disk_s, e.link_s});
    e.bound = most == e.compute_s ? "compute" : most == e.disk_s ? "disk" : "link";
    e.decode_tps = 1.0 / step;
    return e;
  }

  // Of one full chunk; the head is computed for its last row alone.
  double prefill_tps() const {
    Pass pass;
    for (size_t i = 0; i < plan_.units.size(); ++i) {
      const WeightUnit& unit = plan_.units[i];
      add(pass, i, unit.stage == Stage::head ? read_s(unit) : multiply_s(unit, plan_.chunk));
    }
    const Experts experts = experts_of(plan_.chunk);
    pass.resident_s += experts.multiply_s;
    // A layer's experts arrive while those before are multiplied.
    const double seconds = std::max(steady_seconds(pass, plan_.weight_ring_bytes, plan_.lookahead), fetch_s(experts));
    const double tps = plan_.chunk / seconds;
    if (before() == nullptr) return tps;
    // Both units work at once, on chunks that follow one another; but where the device is emulated, on the same cores.
    const double other = before()->prefill_tps;
    return plan_.emulated_link ? 1 / (1 / tps + 1 / other) : std::min(tps, other);
  }

 private:
  // A layer's operations: norms, products, biases, rotation, attention, activation.
  static constexpr int kCalls = 10;

  // Seconds that one row takes of a unit, and many.
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

  // What `rows` rows read of the experts, and what of that has to be fetched, if any expert is as likely as another:
  // where some are more popular, the slots hold those.
  struct Experts {
    double read_s = 0, multiply_s = 0, disk_bytes = 0, link_bytes = 0;
  };
  Experts experts_of(int rows) const {
    Experts sum;
    if (plan_.expert_units.empty()) return sum;
    const double chosen = shape_.experts_used / static_cast<double>(shape_.experts);  // for one row
    const double read = 1 - std::pow(1 - chosen, rows);
    const auto count = static_cast<double>(plan_.expert_units.size());
    const double fetched = plan_.moves_experts() ? read * (1 - plan_.expert_device_slots / count) : 0;
    const double from_disk = plan_.expert_tier == Tier::disk ? fetched * (1 - plan_.expert_host_slots / count) : 0;
    for (const WeightUnit& unit : plan_.expert_units) {
      const auto bytes = static_cast<double>(unit.bytes);
      sum.read_s += read * read_s(unit);
      sum.disk_bytes += from_disk * bytes;
      sum.link_bytes += (fetched - from_disk) * bytes;
      sum.multiply_s += multiply_s(unit, chosen * rows);
    }
    return sum;
  }
  double fetch_s(const Experts& experts) const {
    const double over_link = experts.link_bytes + (plan_.staged ? experts.disk_bytes : 0);
    return std::max(experts.disk_bytes / limits_.disk_read, over_link / limits_.link);
  }

  // Of the layers before these, which another unit computes.
  const Expected* before() const { return plan_.before.empty() ? nullptr : &plan_.before.front().expected; }
  void add(Pass& pass, size_t unit, double compute_s) const {
    const uint64_t bytes = plan_.units[unit].bytes;
    if (plan_.unit_tiers[unit] == Tier::device) {
      (pass.stops.empty() ? pass.resident_s : pass.stops.back().compute_s) += compute_s;
      return;
    }
    const bool disk = plan_.unit_tiers[unit] == Tier::disk;
    const double disk_s = disk ? static_cast<double>(bytes) / limits_.disk_read : 0;
    const double link_s = !disk || plan_.staged ? static_cast<double>(bytes) / limits_.link : 0;
    pass.stops.push_back({bytes, std::max(disk_s, link_s), compute_s});
  }

  const Plan& plan_;
  const ModelShape& shape_;
  const Limits& limits_;
  KvReads kv_;
};

}  // namespace

Expected predict(const Plan& plan, const ModelShape& shape, const Limits& limits) {
  if (!plan.before.empty() && plan.before.front().expected.bound.empty()) return {};
  if (limits.disk_read <= 0 || limits.link <= 0 || limits.weight_bytes <= 0 || limits.prefill_flops <= 0) return {};
  const Predictor predictor(plan, shape, limits);
  Expected expected = predictor.decode();
  expected.prefill_tps = predictor.prefill_tps();
  return expected;
}

}  // namespace spillway
