#include "runtime/fill_plan.h"

namespace spillway {

Plan sized_plan(const PlanInput& input, const PlanSizes& sizes) {
  Plan plan;
  plan.last_layer = input.spec.shape.layers;
  plan.head = input.spec.has_head();
  plan.context = sizes.context;
  plan.positions = sizes.positions;
  plan.sequences = input.options.sequences;
  plan.batch = input.options.batch;
  plan.chunk = sizes.chunk;
  plan.logit_rows = sizes.logit_rows;
  plan.lookahead = input.options.lookahead;
  plan.emulated_link = sizes.emulated_link;
  plan.staged = sizes.staged;
  plan.staging = sizes.staging;
  plan.small_bytes = sizes.small_bytes;
  plan.workspace_bytes = sizes.workspace_bytes;
  plan.host_input_bytes = sizes.host_input_bytes;
  plan.host_logit_bytes = sizes.host_logit_bytes;
  plan.unit_bytes = sizes.unit_bytes;
  plan.units = sizes.units;
  plan.expert_units = sizes.expert_units;
  plan.kv_layout = sizes.kv.layout;
  plan.selection = sizes.selection;
  return plan;
}

void count_tiers(Plan& plan, const PlanInput& input, const PlanSizes& sizes) {
  TierPlan& device = plan.tier(Tier::device);
  TierPlan& host = plan.tier(Tier::host);
  TierPlan& disk = plan.tier(Tier::disk);
  device.budget = *input.options.device_bytes;
  host.budget = input.options.host_bytes.value_or(0);
  disk.budget = input.options.disk_bytes;
  for (size_t i = 0; i < plan.units.size(); ++i) plan.tier(plan.unit_tiers[i]).weights += plan.units[i].bytes;
  plan.tier(plan.expert_tier).weights += sizes.all_experts;
  device.weights += plan.small_bytes;
  const KvLayout& layout = plan.kv_layout;
  const bool near = input.device.host_addressable();
  device.selection = plan.selection.on_device();
  (near ? device : host).selection += plan.selection.host_bytes;
  device.kv = layout.bytes(plan.kv_device_slots);
  host.kv = layout.bytes(plan.kv_host_slots);
  disk.kv = layout.bytes(plan.kv_disk_slots);
  device.workspace = plan.workspace_bytes;
  device.rings = plan.weight_ring_bytes + plan.kv_ring_bytes + plan.expert_device_slots * plan.expert_slot_bytes;
  host.rings = sizes.staging_bytes() + plan.expert_host_slots * plan.expert_slot_bytes;
  device.process = sizes.process_in(Tier::device);
  host.process = sizes.process_in(Tier::host);
  (near ? device : host).process += plan.selection.lookup;
  (near ? device : host).workspace += plan.host_input_bytes + plan.host_logit_bytes;
}

bool within_budgets(const Plan& plan) {
  const TierPlan &device = plan.tier(Tier::device), &host = plan.tier(Tier::host), &disk = plan.tier(Tier::disk);
  return device.total() <= device.budget && host.total() <= host.budget && disk.kv <= disk.budget;
}

}  // namespace spillway
