// A plan from a file, held against the model and the machine that are here now.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_device.h"
#include "loader/printable.h"
#include "memory/format_bytes.h"
#include "runtime/fill_plan.h"
#include "runtime/fingerprint.h"
#include "runtime/layer_split.h"
#include "runtime/plan_file.h"

namespace spillway {
namespace {

constexpr uint64_t kMostSum = uint64_t{1} << 60;  // sums of a few terms of so much do not overflow

class GivenUnit {
 public:
  GivenUnit(const std::string& path, size_t number, const UnitChoices& choices, const PlanInput& input)
      : path_(path), number_(number), choices_(choices), in_(input), sizes_(input, choices.sizes) {}

  Plan plan() {
    plan_ = sized_plan(in_, sizes_);
    plan_.first_layer = choices_.first_layer;
    plan_.last_layer = choices_.last_layer;
    plan_.lookahead = choices_.lookahead;
    place_weights();
    place_experts();
    place_kv();
    count_tiers(plan_, in_, sizes_);
    return std::move(plan_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::fit,
                fmt::format("--plan {}: units[{}]: {}: not a plan for this model and version", path_, number_, what));
  }
  void require(bool good, const char* what) const {
    if (!good) refuse(what);
  }

  void place_weights() {
    if (choices_.weight_tiers.size() != plan_.units.size()) {
      refuse(fmt::format("weight_tiers are of {} units, but the model is cut into {}", choices_.weight_tiers.size(),
                         plan_.units.size()));
    }
    plan_.unit_tiers = choices_.weight_tiers;
    plan_.weight_ring_bytes = choices_.weight_ring_bytes;
    const bool resident =
        std::all_of(plan_.unit_tiers.begin(), plan_.unit_tiers.end(), [](Tier tier) { return tier == Tier::device; });
    // Two units: one is read while the next arrives.
    require(resident ? plan_.weight_ring_bytes == 0
                     : plan_.weight_ring_bytes >= sizes_.least_dense() && plan_.weight_ring_bytes % kDiskAlign == 0,
            "weight_ring_bytes");
  }

  void place_experts() {
    const auto count = static_cast<int64_t>(plan_.expert_units.size());
    plan_.expert_tier = choices_.expert_tier;
    plan_.expert_device_slots = choices_.expert_device_slots;
    plan_.expert_host_slots = choices_.expert_host_slots;
    if (count == 0 || plan_.expert_tier == Tier::device) {
      require(plan_.expert_tier == Tier::device && plan_.expert_device_slots == 0 && plan_.expert_host_slots == 0,
              "experts");
      return;
    }
    plan_.expert_slot_bytes = sizes_.largest_expert;
    const int64_t most_on_host = plan_.expert_tier == Tier::disk ? count : 0;
    require(plan_.expert_device_slots >= std::min<int64_t>(2, count) && plan_.expert_device_slots <= count &&
                plan_.expert_host_slots <= most_on_host,
            "experts");
  }

  void place_kv() {
    const KvSizes& kv = sizes_.kv;
    const int rows = kv.rows_per_layer();
    const KvKept kept{choices_.kv_device_rows_per_layer, choices_.kv_choosing_rows_per_layer};
    // What slots are counted in.
    const int64_t most_rows = int64_t{rows} + kv.transient_rows() + kv.pass_rows();
    require(most_rows * (kv.layout.layers + kv.layout.packed_layers()) <= int64_t{UINT32_MAX}, "sequences");
    // As if there were room for all elsewhere: what has to stay whatever the budgets are.
    const int least = rows - kv.outside_rows(kMostSum, kMostSum);
    require(kept.whole >= least && kept.whole <= rows, "kv.device_rows_per_layer");
    require(sizes_.selection.on() ? kept.choosing >= least && kept.choosing <= rows : kept.choosing == kept.whole,
            "kv.choosing_rows_per_layer");
    const bool spills = kept.whole < rows || kept.choosing < rows;
    plan_.kv_device_rows_per_layer = kept.whole;
    plan_.kv_choosing_rows_per_layer = kept.choosing;
    plan_.kv_device_slots = kv.device_slots(kept, spills);
    if (spills) plan_.selection = sizes_.spilled_selection;
    plan_.kv_ring_bytes = choices_.kv_ring_bytes;
    require(spills ? plan_.kv_ring_bytes >= kv.least_ring() && plan_.kv_ring_bytes % kDiskAlign == 0
                   : plan_.kv_ring_bytes == 0,
            "kv.ring_bytes");
    const KvSlots outside = kv.outside_slots(kept), host = choices_.kv_host_slots;
    require(host.full <= outside.full && host.packed <= outside.packed, "kv.host_slots");
    plan_.kv_host_slots = host;
    plan_.kv_disk_slots = {.full = outside.full - host.full, .packed = outside.packed - host.packed};
  }

  const std::string& path_;
  size_t number_;
  const UnitChoices& choices_;
  const PlanInput& in_;
  PlanSizes sizes_;
  Plan plan_;
};

}  // namespace

void PlanFile::decide(Options& options) const {
  if (options.device == DeviceChoice::automatic) options.device = device_choice;
  options.device_bytes = device_bytes;
  options.host_bytes = host_bytes;
  options.disk_bytes = disk_bytes;
  options.link_bytes_per_second = link_bytes_per_second;
  options.context = context;
  options.chunk = chunk;
  options.sequences = sequences;
  options.kv_codec = kv_codec;
  options.kv_edge_layers = kv_edge_layers;
  const int check_every = options.selection.check_every;
  options.selection = selection;
  options.selection.check_every = check_every;
  options.lookahead = units.back().lookahead;
  options.device_layers = units.size() == 1 ? std::numeric_limits<int>::max()
                                            : std::max(0, units.back().last_layer - units.back().first_layer);
}

void PlanFile::check(const Checkpoint& checkpoint, const Device& on) const {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::fit, fmt::format("--plan {}: {}; spillway plan -o makes a new one", path, what));
  };
  if (const std::string here = spillway::fingerprint(checkpoint); here != fingerprint) {
    refuse(fmt::format("it was made for the model {} ({}), and {} is another ({})", printable(model),
                       printable(fingerprint), checkpoint.path(), here));
  }
  if (processor != processor_name() || device != on.name()) {
    refuse(fmt::format("it was made for {} on {}, and here {} computes on {}", printable(device), printable(processor),
                       on.name(), processor_name()));
  }
}

Plan PlanFile::plan(const PlanInput& input) const {
  const int layers = input.spec.shape.layers;
  const bool divided = units.size() == 2;
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::fit, fmt::format("--plan {}: {}", path, what));
  };
  const int first = units.back().first_layer;
  const bool whole = units.front().first_layer == 0 && units.back().last_layer == layers && first <= layers &&
                     (!divided || (units.front().last_layer == first && first > 0));
  if (!whole) refuse(fmt::format("units: their layers are not the model's {}", layers));
  if (divided && (input.host == nullptr || !input.options.host_bytes)) {
    refuse("units: there is no CPU beside the device to compute the first layers");
  }
  const ModelSpec spec = divided ? input.spec.stretch(first, layers, true) : input.spec;
  PlanInput own{.options = input.options,
                .spec = spec,
                .checkpoint = input.checkpoint,
                .device = input.device,
                .ops = input.ops,
                .limits = input.limits,
                // A process is never quite of the same size twice: the plan has it as it was, or larger.
                .process_bytes = std::max(input.process_bytes, units.back().process_bytes),
                .skew = input.skew};
  Plan plan = GivenUnit(path, units.size() - 1, units.back(), own).plan();
  if (divided) {
    const ModelSpec cpu_spec = input.spec.stretch(0, first, false);
    const Options cpu_options = options_of_host_unit(input.options);
    Plan cpu = GivenUnit(path, 0, units.front(),
                         {.options = cpu_options,
                          .spec = cpu_spec,
                          .checkpoint = input.checkpoint,
                          .device = input.host->device,
                          .ops = input.host->ops,
                          .limits = input.host->limits,
                          .skew = input.skew})
                   .plan();
    cpu.expected = predict(cpu, cpu_spec, input.host->limits);
    plan.take_in(std::move(cpu));
  }
  constexpr const char* kFlags[] = {"--device-mem", "--host-mem", "--disk-mem"};
  for (const Tier tier : {Tier::device, Tier::host, Tier::disk}) {
    const TierPlan& held = plan.tier(tier);
    const uint64_t needed = tier == Tier::disk ? held.kv : held.total();
    if (needed <= held.budget) continue;
    refuse(fmt::format("it takes {} ({} bytes), but {} is {} ({} bytes){}", format_bytes(needed), needed,
                       kFlags[static_cast<int>(tier)], format_bytes(held.budget), held.budget,
                       input.process_bytes > units.back().process_bytes
                           ? fmt::format("; the process has {} now, and the plan leaves {} for it",
                                         format_bytes(input.process_bytes), format_bytes(units.back().process_bytes))
                           : ""));
  }
  plan.expected = predict(plan, spec, input.limits);
  return plan;
}

}  // namespace spillway
