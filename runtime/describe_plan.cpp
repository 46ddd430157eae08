#include "runtime/describe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/kv_page.h"
#include "runtime/kv_selection.h"
#include "runtime/kv_sizes.h"

namespace spillway {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

template <typename Visit>
void for_each_unit(const Plan& plan, const Visit& visit) {
  for (const Plan& before : plan.before) for_each_unit(before, visit);
  visit(plan);
}

std::string layers_of(const Plan& plan) {
  const int count = plan.last_layer - plan.first_layer;
  if (count == 0) return "no layer";
  if (count == 1) return fmt::format("layer {}", plan.first_layer);
  return fmt::format("layers {} to {}", plan.first_layer, plan.last_layer - 1);
}

// A line; empty where there are none.
std::string describe_experts(const Plan& plan) {
  if (plan.expert_units.empty()) return {};
  const size_t count = plan.expert_units.size();
  if (!plan.moves_experts()) return fmt::format("{} experts, all on the device\n", count);
  std::string line = fmt::format("{} experts{}: slots of {:.2f} MiB for {} of them on the device", count,
                                 plan.expert_tier == Tier::host ? ", all in host RAM" : " on disk",
                                 plan.expert_slot_bytes / kMiB, plan.expert_device_slots);
  if (plan.expert_host_slots > 0) line += fmt::format(", for {} in host RAM", plan.expert_host_slots);
  return line + "; the least recently used give way\n";
}

std::string describe_layers(const Plan& plan) {
  return fmt::format("{} computed by the CPU in host RAM, {} and the head by the device",
                     layers_of(plan.before.front()), layers_of(plan));
}

// What packed pages save at full context, or single precision takes; empty where all is in half precision.
std::string describe_kv(const Plan& plan) {
  const KvSaved saved = kv_saved(plan);
  if (saved.codec == KvCodec::f32) {
    return fmt::format("KV is {}: {:.1f} MiB at full context, {:.1f} MiB in fp16\n", info(saved.codec).name,
                       saved.bytes / kMiB, saved.fp16_bytes / kMiB);
  }
  if (saved.packed_layers == 0) return {};
  return fmt::format("KV pages are {} in {} of {} layers: {:.1f} MiB at full context, {:.1f} MiB in fp16\n",
                     info(saved.codec).name, saved.packed_layers, saved.layers, saved.bytes / kMiB,
                     saved.fp16_bytes / kMiB);
}

// Item by item what choosing takes of the device; empty where decode steps read everything.
std::string describe_selection(const Plan& plan) {
  const SelectionPlan& s = plan.selection;
  if (!s.on()) return {};
  const KvLayout& layout = plan.kv_layout;
  const auto fp16 =
      static_cast<double>(page_rows(plan.context)) * layout.layers * static_cast<double>(layout.row_bytes());
  const auto kept = static_cast<double>(s.on_device() + layout.bytes(plan.kv_device_slots) + plan.kv_ring_bytes);
  const bool lets_go = s.wishes.lets_go();
  bool first = true;
  std::string text = fmt::format("KV {} {} in {} of {} layers: up to {} tokens a head{}, by granules of {}",
                                 lets_go ? "is kept by" : "is chosen by",
                                 lets_go ? kKvRetentionNames[static_cast<int>(s.wishes.keep)]
                                         : kKvSelectorNames[static_cast<int>(s.wishes.selector)],
                                 layout.choosing_layers(), layout.layers, s.most * layout.chosen.granule_tokens,
                                 lets_go ? "" : " and step", layout.chosen.granule_tokens);
  const auto item = [&](const std::string& name, uint64_t bytes) {
    if (bytes > 0) text += fmt::format("{} {} {:.2f} MiB", std::exchange(first, false) ? ";" : ",", name, bytes / kMiB);
  };
  item(layout.chosen.bounds ? "bounds of keys"
                            : fmt::format("partial keys of {} numbers in {} bits", layout.chosen.partial.rank,
                                          layout.chosen.partial.bits),
       s.partial_keys);
  item("sums of attention", s.attention_sums);
  item("key scales of packed pages", s.key_scales);
  item(fmt::format("hot set of {} granules a head", s.hot_slots), s.hot_set);
  item("pages and their ring", layout.bytes(plan.kv_device_slots) + plan.kv_ring_bytes);
  item("landing of reads", s.landing.bytes());
  item("scores and places", s.workspace);
  item("directions", s.directions);
  item("query matrices", s.query_matrices);
  return text + fmt::format("; {:.0f}% of the KV in fp16\n", 100 * kept / fp16);
}

}  // namespace

std::string describe_placement(const Plan& plan) {
  const auto weights = [&](Tier tier) { return plan.tier(tier).weights / kMiB; };
  const auto kv = [&](Tier tier) { return plan.tier(tier).kv / kMiB; };
  std::string line = fmt::format("weights: {:.0f} MiB on the device", weights(Tier::device));
  if (weights(Tier::host) > 0) line += fmt::format(", {:.0f} MiB in host RAM", weights(Tier::host));
  if (weights(Tier::disk) > 0) line += fmt::format(", {:.0f} MiB streamed from disk", weights(Tier::disk));
  if (plan.moves_experts()) {
    line += fmt::format(" by way of slots for {} of {} experts", plan.expert_device_slots, plan.expert_units.size());
  }
  line += fmt::format("; KV of {} positions: {:.0f} MiB on the device", plan.context, kv(Tier::device));
  if (kv(Tier::host) > 0) line += fmt::format(", {:.0f} MiB in host RAM", kv(Tier::host));
  if (kv(Tier::disk) > 0) line += fmt::format(", {:.0f} MiB on disk", kv(Tier::disk));
  if (!plan.before.empty()) line += "; " + describe_layers(plan);
  if (plan.emulated_link) line += "; the link between host and device is emulated";
  return line;
}

std::string describe_plan(const Plan& plan) {
  std::string table = fmt::format("{:<8}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}\n", "tier", "budget",
                                  "weights", "KV", "selection", "workspace", "rings", "process", "total");
  for (int t = 0; t < kTiers; ++t) {
    const TierPlan& tier = plan.tiers[t];
    // Streamed weights lie in the model's own files: no part of the disk budget.
    const bool disk = t == static_cast<int>(Tier::disk);
    table += fmt::format("{:<8}", kTierNames[t]);
    for (const uint64_t bytes : {tier.budget, tier.weights, tier.kv, tier.selection, tier.workspace, tier.rings,
                                 tier.process, disk ? tier.kv : tier.total()}) {
      table += fmt::format("{:>8.1f} MiB", bytes / kMiB);
    }
    table += "\n";
  }
  table += describe_kv(plan);
  for_each_unit(plan, [&](const Plan& unit) { table += describe_selection(unit); });
  const Expected& e = plan.expected;
  size_t units = 0, streaming = 0;
  for_each_unit(plan, [&](const Plan& unit) {
    units += unit.units.size();
    streaming +=
        std::count_if(unit.unit_tiers.begin(), unit.unit_tiers.end(), [](Tier t) { return t != Tier::device; });
  });
  table += fmt::format("context {} positions, prompt chunks of {}; {} weight units, of which {} stream\n", plan.context,
                       plan.chunk, units, streaming);
  if (plan.batch > 1) {
    table += fmt::format("up to {} sequences share a pass, each of up to {} positions\n", plan.batch, plan.positions);
  }
  if (!plan.before.empty()) table += describe_layers(plan) + "\n";
  for_each_unit(plan, [&](const Plan& unit) { table += describe_experts(unit); });
  if (e.bound.empty()) {
    return table + "expected: not known, this machine has not been measured (spillway plan --refresh does it)\n";
  }
  table += fmt::format(
      "expected{}: decode {:.2f} tokens/s at full context, prefill {:.1f} tokens/s; {} binds "
      "(disk {:.2f} ms, link {:.2f} ms, compute {:.2f} ms a {})\n",
      plan.emulated_link ? " (emulated link)" : "", e.decode_tps, e.prefill_tps, e.bound, 1e3 * e.disk_s,
      1e3 * e.link_s, 1e3 * e.compute_s, plan.batch > 1 ? "step" : "token");
  for (const std::string& reason : plan.reasons) table += "chosen: " + reason + "\n";
  return table;
}

}  // namespace spillway
