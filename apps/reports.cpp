#include "apps/reports.h"

#include <fmt/format.h>

#include "runtime/kv_sizes.h"

namespace spillway {

namespace {

// The weight units of one unit that computes, and where they lie.
void add_tensors(const Plan& plan, const std::string& computed_by, nlohmann::json& tensors) {
  for (size_t i = 0; i < plan.units.size(); ++i) {
    const WeightUnit& unit = plan.units[i];
    const std::string stage = kStageNames[static_cast<int>(unit.stage)];
    const std::string where =
        unit.stage == Stage::head ? stage : fmt::format("layer {} {}", plan.first_layer + unit.layer, stage);
    // What a CPU beside the device computes from is host memory.
    const Tier tier = computed_by == "cpu" && plan.unit_tiers[i] == Tier::device ? Tier::host : plan.unit_tiers[i];
    tensors.push_back(
        {{"name", fmt::format("{} rows {}+{}", where, unit.slices.front().first_row, unit.slices.front().rows)},
         {"tier", kTierNames[static_cast<int>(tier)]},
         {"computed_by", computed_by},
         {"bytes", unit.bytes}});
  }
}

// Of the device's layers; null where there are none.
nlohmann::json experts_json(const Plan& plan) {
  if (plan.expert_units.empty()) return {};
  return {{"count", plan.expert_units.size()},
          {"tier", kTierNames[static_cast<int>(plan.expert_tier)]},
          {"slot_bytes", plan.expert_slot_bytes},
          {"device_slots", plan.expert_device_slots},
          {"host_slots", plan.expert_host_slots}};
}

// Of the device's layers; null where decode steps read all of the KV.
nlohmann::json selection_json(const Plan& plan) {
  const SelectionPlan& s = plan.selection;
  if (!s.on()) return {};
  const KvLayout& layout = plan.kv_layout;
  return {{"selector", kKvSelectorNames[static_cast<int>(s.wishes.selector)]},
          {"keep", kKvRetentionNames[static_cast<int>(s.wishes.keep)]},
          {"layers", layout.choosing_layers()},
          {"tokens", s.most * layout.chosen.granule_tokens},
          {"granule", layout.chosen.granule_tokens},
          {"rank", layout.chosen.partial.rank},
          {"key_bits", layout.chosen.partial.bits},
          {"ahead", s.wishes.ahead},
          {"hot_granules", s.hot_slots},
          {"bytes",
           {{"partial_keys", layout.chosen.bounds ? 0 : s.partial_keys},
            {"key_bounds", layout.chosen.bounds ? s.partial_keys : 0},
            {"attention_sums", s.attention_sums},
            {"key_scales", s.key_scales},
            {"hot_set", s.hot_set},
            {"landing", s.landing.bytes()},
            {"workspace", s.workspace},
            {"directions", s.directions},
            {"query_matrices", s.query_matrices}}}};
}

}  // namespace

nlohmann::json plan_json(const Plan& plan) {
  nlohmann::json tiers = nlohmann::json::object();
  for (int t = 0; t < kTiers; ++t) {
    const TierPlan& tier = plan.tiers[t];
    tiers[kTierNames[t]] = {{"budget", tier.budget},       {"weights", tier.weights},     {"kv", tier.kv},
                            {"selection", tier.selection}, {"workspace", tier.workspace}, {"rings", tier.rings},
                            {"process", tier.process}};
  }
  nlohmann::json tensors = nlohmann::json::array();
  for (const Plan& cpu : plan.before) add_tensors(cpu, "cpu", tensors);
  add_tensors(plan, "device", tensors);
  const KvSaved kv = kv_saved(plan);
  const Expected& e = plan.expected;
  // null: the machine's limits are not known.
  const auto known = [&](double value) { return e.bound.empty() ? nlohmann::json() : nlohmann::json(value); };
  return {{"context", plan.context},
          {"chunk", plan.chunk},
          {"emulated_link", plan.emulated_link},
          {"kv",
           {{"type", info(kv.codec).name},
            {"packed_layers", kv.packed_layers},
            {"layers", kv.layers},
            {"bytes", kv.bytes},
            {"fp16_bytes", kv.fp16_bytes},
            {"device_bytes", plan.kv_on_device()},
            {"ring_bytes", plan.kv_ring_bytes}}},
          {"selection", selection_json(plan)},
          {"tiers", std::move(tiers)},
          {"cpu_layers", plan.first_layer},
          {"device_layers", plan.last_layer - plan.first_layer},
          {"tensors", std::move(tensors)},
          {"experts", experts_json(plan)},
          {"reasons", plan.reasons},
          {"expected",
           {{"prefill_tps", known(e.prefill_tps)},
            {"decode_tps", known(e.decode_tps)},
            {"bound", e.bound.empty() ? nlohmann::json() : nlohmann::json(e.bound)},
            {"disk_s", known(e.disk_s)},
            {"link_s", known(e.link_s)},
            {"compute_s", known(e.compute_s)}}}};
}

nlohmann::json generation_json(const Generation& generation, const Metrics& metrics, const Plan& plan) {
  nlohmann::json out = metrics_json(metrics);
  out["text"] = generation.text;
  out["tokens"] = generation.tokens;
  out["prompt_tokens"] = generation.prompt_tokens;
  out["finish_reason"] = kFinishReasonNames[static_cast<int>(generation.finish)];
  out["plan"] = plan_json(plan);
  return out;
}

}  // namespace spillway
