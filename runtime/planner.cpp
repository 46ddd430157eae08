#include "runtime/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/check.h"
#include "runtime/fill_plan.h"
#include "runtime/layer_split.h"
#include "runtime/nearest_fit.h"
#include "runtime/plan_sizes.h"
#include "runtime/predict.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

// Marks every n-th of the candidates so that `bytes` in all are chosen, spread evenly over the pass: what streams is
// then spread evenly too, and the ring never has to make up for a long resident stretch. head_start: bytes by which the
// first is chosen earlier.
void choose_spread(const std::vector<WeightUnit>& units, std::vector<Tier>& tiers, Tier from, Tier to, uint64_t bytes,
                   double head_start = 0) {
  uint64_t candidates = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] == from) candidates += units[i].bytes;
  }
  if (candidates == 0) return;
  const double share = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(candidates));
  double due = head_start;
  uint64_t left = bytes;
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] != from) continue;
    due += share * static_cast<double>(units[i].bytes);
    if (due + 0.5 < static_cast<double>(units[i].bytes) || units[i].bytes > left) continue;
    due -= static_cast<double>(units[i].bytes);
    left -= units[i].bytes;
    tiers[i] = to;
  }
  // What rounding left over: first fit.
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] != from || units[i].bytes > left) continue;
    left -= units[i].bytes;
    tiers[i] = to;
  }
}

// What KV that may be spilled leaves to the weights: half of the room (a byte of either costs the same to stream, but
// KV is only full at the end), or as much as they can use, or as little.
enum class KvShare : uint8_t { half, least, most };

// How many units of weights the ring has room for: fewer leave more of the device to resident ones, but then less is
// asked for ahead of what a drive's latency takes. kAmple: 4, and 32 MiB at least.
constexpr int kAmple = 0;
constexpr int kRingDepths[] = {3, 4, 6, 10};

struct Candidate {
  KvShare kv = KvShare::half;
  int ring_units = kAmple;
  double head_start = 0;  // of the spread of what stays resident, in units of weights
  // Units of weights that might stay and do not: those that rounding leaves over stand side by side, and where little
  // streams, as much more of it evenly spread may be faster.
  int left_out = 0;
};

class Planner {
 public:
  Planner(const PlanInput& input, const PlanSizes& sizes, const Candidate& candidate)
      : in_(input), sizes_(sizes), candidate_(candidate) {}

  // Nothing when a budget is too small.
  std::optional<Plan> run() {
    if (sizes_.device_fixed() > device_budget() || sizes_.host_fixed() > host_budget()) return std::nullopt;
    device_left_ = device_budget() - sizes_.device_fixed();
    host_left_ = host_budget() - sizes_.host_fixed();
    plan_ = sized_plan(in_, sizes_);
    if (!place_kv() || !place_weights()) return std::nullopt;
    count_tiers(plan_, in_, sizes_);
    SPILLWAY_CHECK(within_budgets(plan_));
    SPILLWAY_CHECK(plan_.kv_on_device() <= in_.options.kv_device_bytes.value_or(UINT64_MAX));
    plan_.expected = predict(plan_, in_.spec, in_.limits);
    return std::move(plan_);
  }

 private:
  uint64_t device_budget() const { return *in_.options.device_bytes; }
  uint64_t host_budget() const { return in_.options.host_bytes.value_or(0); }

  bool place_kv() {
    const KvSizes& kv = sizes_.kv;
    const uint64_t all = kv.all();
    const uint64_t cap = kv_cap();
    const uint64_t room =
        std::min(cap, device_left_ > sizes_.least_weights() ? device_left_ - sizes_.least_weights() : 0);
    const uint64_t wanted = candidate_.kv == KvShare::half ? room / 2 : candidate_.kv == KvShare::most ? room : 0;
    const bool too_much = all > cap || all + sizes_.all_weights() > device_left_;
    if (too_much && (all > room || all > wanted) && spill_kv(room, wanted)) return true;
    if (all > room) return false;
    plan_.kv_device_rows_per_layer = plan_.kv_choosing_rows_per_layer = kv.rows_per_layer();
    plan_.kv_device_slots = kv.device_slots(kv.all_rows(), false);
    device_left_ -= all;
    return true;
  }

  // What the wish leaves to pages, rings and hot sets: what choosing needs beside them is in the fixed part.
  uint64_t kv_cap() const {
    const uint64_t cap = in_.options.kv_device_bytes.value_or(UINT64_MAX), fixed = sizes_.selection_on_device();
    return cap > fixed ? cap - fixed : 0;
  }

  // Some of the KV outside the device, the rest in about `wanted` bytes, at most `room`. False where that cannot be.
  bool spill_kv(uint64_t room, uint64_t wanted) {
    const KvSizes& kv = sizes_.kv;
    const int rows = kv.rows_per_layer();
    const int least_rows = rows - kv.outside_rows(host_left_, in_.options.disk_bytes);
    const auto need = [&](int level) {
      return plan_.kv_ring_bytes + kv.beside_bytes + kv.layout.bytes(kv.device_slots(kept_at(least_rows, level), true));
    };
    plan_.kv_ring_bytes =
        std::max(3 * kPagesPerSpan * kv.largest_row(), align_down(std::min(room / 16, 8 * kMiB), kDiskAlign));
    if (plan_.kv_ring_bytes > room / 4 || need(0) > room) plan_.kv_ring_bytes = kv.least_ring();
    if (least_rows == rows || need(0) > room) {
      plan_.kv_ring_bytes = 0;
      return false;
    }
    // What all weights would leave over is the KV's in any case.
    const uint64_t weights = sizes_.all_weights();
    const uint64_t beside = device_left_ > weights ? device_left_ - weights : 0;
    const uint64_t share = std::max(wanted, std::min(beside, room));
    int level = 0;
    for (int most = levels(least_rows); level < most;) {
      const int middle = level + (most - level + 1) / 2;
      if (need(middle) <= share) {
        level = middle;
      } else {
        most = middle - 1;
      }
    }
    const KvKept kept = kept_at(least_rows, level);
    plan_.kv_device_rows_per_layer = kept.whole;
    plan_.kv_choosing_rows_per_layer = kept.choosing;
    plan_.kv_device_slots = kv.device_slots(kept, true);
    plan_.selection = sizes_.spilled_selection;
    const KvSlots outside = kv.outside_slots(kept);
    plan_.kv_host_slots = kv.fitting(outside, host_left_);
    plan_.kv_disk_slots = {.full = outside.full - plan_.kv_host_slots.full,
                           .packed = outside.packed - plan_.kv_host_slots.packed};
    device_left_ -= need(level);
    host_left_ -= kv.layout.bytes(plan_.kv_host_slots);
    return true;
  }

  // Levels of what is kept, from the least to the most: layers that are read whole come first, for every byte of theirs
  // is read in every step. With every sealed row kept nothing would be spilled.
  int levels(int least) const {
    const int rows = sizes_.kv.rows_per_layer();
    return sizes_.selection.on() ? 2 * (rows - least) - 1 : rows - 1 - least;
  }
  KvKept kept_at(int least, int level) const {
    const int rows = sizes_.kv.rows_per_layer();
    if (!sizes_.selection.on()) return {least + level, least + level};
    // The page before the open one holds the newest tokens, which are always chosen, once that is full.
    constexpr int kNewest = 2;
    const int whole = std::min(least + level, rows);
    const int choosing = level == 0 ? least : std::max(std::min(kNewest, rows - 1), least);
    return {whole, std::min(choosing + std::max(0, level - (rows - least)), rows - 1)};
  }

  bool place_weights() {
    plan_.unit_tiers.assign(plan_.units.size(), Tier::disk);
    if (device_left_ < sizes_.least_weights()) return false;
    const bool resident = sizes_.all_weights() <= device_left_;
    const uint64_t kept = resident ? sizes_.all_experts : sizes_.least_experts();
    place_dense(device_left_ - kept);
    if (!sizes_.expert_units.empty()) place_experts(resident);
    return true;
  }

  // What every token reads comes first: in `room` bytes of the device.
  void place_dense(uint64_t room) {
    if (sizes_.all_units <= room) {
      std::fill(plan_.unit_tiers.begin(), plan_.unit_tiers.end(), Tier::device);
      device_left_ -= sizes_.all_units;
      return;
    }
    const uint64_t wanted = candidate_.ring_units == kAmple
                                ? std::max(4 * sizes_.largest_unit, 32 * kMiB)
                                : static_cast<uint64_t>(candidate_.ring_units) * sizes_.largest_unit;
    plan_.weight_ring_bytes = std::max(sizes_.least_dense(), align_down(std::min(wanted, room / 3), kDiskAlign));
    const uint64_t most = room - plan_.weight_ring_bytes;
    choose_spread(plan_.units, plan_.unit_tiers, Tier::disk, Tier::device,
                  most - std::min(most, static_cast<uint64_t>(candidate_.left_out) * sizes_.largest_unit),
                  candidate_.head_start * static_cast<double>(sizes_.largest_unit));
    choose_spread(plan_.units, plan_.unit_tiers, Tier::disk, Tier::host, host_left_);
    device_left_ -= plan_.weight_ring_bytes + dense_in(Tier::device);
    host_left_ -= dense_in(Tier::host);
  }

  uint64_t dense_in(Tier tier) const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < plan_.units.size(); ++i) {
      if (plan_.unit_tiers[i] == tier) bytes += plan_.units[i].bytes;
    }
    return bytes;
  }

  // Experts have the memory that is left.
  void place_experts(bool resident) {
    if (resident) {
      plan_.expert_tier = Tier::device;
      device_left_ -= sizes_.all_experts;
      return;
    }
    const uint64_t slot = sizes_.largest_expert;
    const uint64_t count = sizes_.expert_units.size();
    plan_.expert_slot_bytes = slot;
    plan_.expert_device_slots = static_cast<int>(std::min(count, device_left_ / slot));
    device_left_ -= plan_.expert_device_slots * slot;
    plan_.expert_tier = sizes_.all_experts <= host_left_ ? Tier::host : Tier::disk;
    if (plan_.expert_tier == Tier::disk) {
      plan_.expert_host_slots = static_cast<int>(std::min(count, host_left_ / slot));
    }
  }

  const PlanInput& in_;
  const PlanSizes& sizes_;
  Candidate candidate_;
  Plan plan_;
  uint64_t device_left_ = 0;
  uint64_t host_left_ = 0;
};

bool resident(const Plan& plan) { return !plan.streams() && !plan.spills_kv(); }

std::string mib(uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMiB); }

// Takes `other` in place of `best` where it is faster by more than what a prediction is worth.
bool improve(Plan& best, std::optional<Plan> other, double worth_it) {
  if (!other || other->expected.decode_tps <= best.expected.decode_tps * worth_it) return false;
  best = std::move(*other);
  return true;
}

std::string kv_reason(const Plan& plan, double before_tps) {
  return fmt::format(
      "{} of the KV on the device, so that {} of weights are: {:.2f} tokens/s where even shares give {:.2f}",
      mib(plan.tier(Tier::device).kv), mib(plan.tier(Tier::device).weights), plan.expected.decode_tps, before_tps);
}

std::string ring_reason(const Plan& plan, const Plan& ample) {
  const bool smaller = plan.weight_ring_bytes < ample.weight_ring_bytes;
  return fmt::format("a ring of {} for weights in place of {} {}: {:.2f} tokens/s in place of {:.2f}",
                     mib(plan.weight_ring_bytes), mib(ample.weight_ring_bytes),
                     smaller ? "leaves room for more that stay" : "hides more of the drive's latency",
                     plan.expected.decode_tps, ample.expected.decode_tps);
}

// Of one share of KV, the fastest ring.
std::optional<Plan> best_ring(const PlanInput& input, const PlanSizes& sizes, KvShare share) {
  // An ample ring bears a drive that stutters, which no prediction knows of.
  constexpr double kWorthIt = 1.01;
  std::optional<Plan> ample = Planner(input, sizes, {.kv = share}).run();
  if (!ample || ample->expected.bound.empty() || !ample->streams_weights()) return ample;
  Plan best = *ample;
  for (const int depth : kRingDepths) {
    for (const double head_start : {0.0, 0.5}) {
      for (const int left_out : {0, 1}) {
        improve(
            best,
            Planner(input, sizes, {.kv = share, .ring_units = depth, .head_start = head_start, .left_out = left_out})
                .run(),
            kWorthIt);
      }
    }
  }
  if (best.weight_ring_bytes != ample->weight_ring_bytes) best.reasons.push_back(ring_reason(best, *ample));
  return best;
}

// The fastest by simulation of those that fit; where the machine's limits are not known, the first.
std::optional<Plan> best_plan(const PlanInput& input, const PlanSizes& sizes) {
  // Speed is predicted at full context, the worst for KV that streams: until then it moves less. So a little is no
  // reason.
  constexpr double kWorthIt = 1.08;
  std::optional<Plan> best = best_ring(input, sizes, KvShare::half);
  for (const KvShare share : {KvShare::least, KvShare::most}) {
    if (best && (resident(*best) || best->expected.bound.empty())) break;
    std::optional<Plan> other = best_ring(input, sizes, share);
    if (!best) {
      best = std::move(other);
    } else if (const double before = best->expected.decode_tps; improve(*best, std::move(other), kWorthIt)) {
      best->reasons.push_back(kv_reason(*best, before));
    }
  }
  return best;
}

std::string hot_set_text(const Plan& plan, double hot_slots) {
  if (hot_slots >= 1) return fmt::format("a hot set of {:g} times what is chosen", hot_slots);
  return fmt::format("a hot set of what {} of {} sequences choose, so many in a pass", plan.selection.together(),
                     plan.batch);
}

// With the hot set that was wished for, or a smaller one where that does not fit or leaves room for what is read in
// every step: it fetches more, or has fewer sequences choose in a pass, and answers the same.
std::optional<Plan> best_ample_plan(const PlanInput& input) {
  std::vector<double> sizes{1.75, 1.5, 1.25, 1};  // times what is chosen at once
  for (int together = input.options.batch / 2; together >= 1; together /= 2) {
    sizes.push_back(static_cast<double>(together) / input.options.batch);
  }
  constexpr double kWorthIt = 1.03;
  const double wish = input.options.selection.hot_slots;
  const auto with = [&](double hot_slots) {
    return best_plan(input, PlanSizes(input, Room::ample, input.options.logit_rows, hot_slots));
  };
  std::optional<Plan> best = with(wish);
  if (!input.options.selection.on() || (best && !best->spills_kv())) return best;
  for (const double smaller : sizes) {
    if (smaller >= wish || (best && best->expected.bound.empty())) continue;
    std::optional<Plan> other = with(smaller);
    if (!best) {
      best = std::move(other);
      if (best)
        best->reasons.push_back(fmt::format("{}, for {:g} times does not fit", hot_set_text(*best, smaller), wish));
    } else if (const double before = best->expected.decode_tps; improve(*best, std::move(other), kWorthIt)) {
      best->reasons.push_back(fmt::format("{}, which leaves more to other KV: {:.2f} tokens/s in place of {:.2f}",
                                          hot_set_text(*best, smaller), best->expected.decode_tps, before));
    }
  }
  return best;
}

// Of the least sizes. The head is swept once for every so many rows of logits as there is room for: as many as fit, or
// fewer, where what they leave to weights is faster by the prediction, which knows of a pass's sequences.
std::optional<Plan> best_least_plan(const PlanInput& input) {
  const Options& options = input.options;
  std::optional<Plan> best;
  int last = 0;
  for (int rows = std::min(options.logit_rows, std::max(options.chunk, options.batch)); rows >= 1; rows /= 2) {
    std::optional<Plan> plan = best_plan(input, PlanSizes(input, Room::least, rows, 0));
    if (!plan || plan->logit_rows == last) continue;
    last = plan->logit_rows;
    if (!best) {
      best = std::move(plan);
    } else {
      improve(*best, std::move(plan), 1.0);
    }
    if (options.batch == 1 || best->expected.bound.empty()) break;
  }
  return best;
}

}  // namespace

std::optional<Plan> plan_unit(const PlanInput& input) {
  SPILLWAY_CHECK(input.options.device_bytes.has_value());
  if (std::optional<Plan> plan = best_ample_plan(input)) return plan;
  return best_least_plan(input);
}

namespace {

// Where it is the wish for little KV on the device that cannot be kept.
void refuse_kv_cap(const PlanInput& input) {
  Options options = input.options;
  const PlanInput other{.options = options,
                        .spec = input.spec,
                        .checkpoint = input.checkpoint,
                        .device = input.device,
                        .ops = input.ops,
                        .limits = input.limits,
                        .process_bytes = input.process_bytes,
                        .host = input.host,
                        .skew = input.skew};
  options.kv_device_bytes.reset();
  if (!plan_unit(other)) return;  // not it alone
  uint64_t low = *input.options.kv_device_bytes / kMiB, high = *input.options.device_bytes / kMiB + 1;
  while (low + 1 < high) {
    const uint64_t middle = low + (high - low) / 2;
    options.kv_device_bytes = middle * kMiB;
    (plan_unit(other) ? high : low) = middle;
  }
  throw Error(ErrorKind::fit,
              fmt::format("--kv-device-mem is {} ({} bytes), which is too little; nearest fit: --kv-device-mem {}MiB",
                          mib(*input.options.kv_device_bytes), *input.options.kv_device_bytes, high));
}

}  // namespace

Plan make_plan(const PlanInput& input) {
  if (may_split(input)) return plan_split(input);
  if (std::optional<Plan> plan = plan_unit(input)) return std::move(*plan);
  if (input.options.kv_device_bytes) refuse_kv_cap(input);
  refuse_to_plan(input);
}

}  // namespace spillway
