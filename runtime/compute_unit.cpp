#include "runtime/compute_unit.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "memory/kv/layout.h"
#include "runtime/weight_loader.h"

namespace spillway {

ComputeUnit::ComputeUnit(const ComputeUnitParts& parts)
    : spec(parts.model.spec.stretch(parts.plan.first_layer, parts.plan.last_layer, parts.plan.head)),
      device(parts.device) {
  const Plan& plan = parts.plan;
  compute = device.make_compute_stream(parts.name + "compute");
  make_lanes(parts);
  std::byte* activations = parts.device_arena.take("workspace", plan.workspace_bytes).data();
  Workspace::cut(spec, {plan.chunk, plan.logit_rows, plan.context, plan.batch}, device.ops(), activations, &workspace);
  device.ops().set_scratch(workspace.scratch_shape, workspace.scratch, workspace.scratch_bytes);
  scratch.ops = &device.ops();
  place_weights(parts);
  place_experts(parts);
  place_kv(parts);
  small = parts.device_arena.take("norms and biases", plan.small_bytes);
  vectors = ModelVectors::cut(spec, small.data());
  const auto weight_ring = parts.device_arena.take("weight ring", plan.weight_ring_bytes);
  const auto kv_ring = parts.device_arena.take("KV ring", plan.kv_ring_bytes);
  weight_feed = std::make_unique<WeightFeed>(home, weight_ring, plan.lookahead, weight_lane.get());
  std::vector<int> windows;
  for (const LayerTensors& layer : spec.layers) windows.push_back(layer.window);
  kv_feed = std::make_unique<KvFeed>(*kv, kv_ring, plan.lookahead, fetch_lane.get(), spill_lane.get(), windows);
  place_selection(parts);
  Arena& inputs = device.host_addressable() ? parts.device_arena : parts.host_arena;
  host_inputs = inputs.take("host inputs", plan.host_input_bytes);
  pass = std::make_unique<Pass>(PassParts{.spec = spec,
                                          .checkpoint = parts.model.checkpoint,
                                          .ops = device.ops(),
                                          .compute = *compute,
                                          .weights = home,
                                          .weight_feed = *weight_feed,
                                          .experts = expert_feed.get(),
                                          .kv = *kv,
                                          .kv_feed = *kv_feed,
                                          .rehearsal = rehearsal.get(),
                                          .workspace = workspace,
                                          .vectors = vectors,
                                          .positions = plan.positions,
                                          .host_inputs = host_inputs,
                                          .traffic = parts.traffic,
                                          .far = !device.host_addressable(),
                                          .first_layer = plan.first_layer});
}

ComputeUnit::Scratch::~Scratch() {
  if (ops != nullptr) ops->set_scratch({}, nullptr, 0);
}

void ComputeUnit::make_lanes(const ComputeUnitParts& parts) {
  const Plan& plan = parts.plan;
  const auto lane = [&](const char* name) {
    std::span<std::byte> staging;
    if (plan.staged) staging = parts.host_arena.take(std::string(name) + " staging", plan.staging.bytes());
    if (load_staging.empty()) load_staging = staging;
    return std::make_unique<CopyLane>(parts.name + name, device, parts.disk, parts.traffic, staging, plan.staging,
                                      plan.staged ? parts.options.link_bytes_per_second : 0);
  };
  if (plan.streams_weights() || plan.staged) weight_lane = lane("weights");
  if (plan.spills_kv() || plan.staged) fetch_lane = lane("kv fetch");
  if (plan.spills_kv() || plan.staged) spill_lane = lane("kv spill");
  if (plan.expert_units.empty()) return;
  if (plan.moves_experts() || plan.staged) expert_lane = lane("experts");
  if (plan.expert_host_slots == 0) return;
  expert_host_lane = std::make_unique<CopyLane>(parts.name + "experts to host", device, parts.disk, parts.traffic,
                                                std::span<std::byte>{}, plan.staging, 0);
}

void ComputeUnit::place_weights(const ComputeUnitParts& parts) {
  const Plan& plan = parts.plan;
  home.units = plan.units;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    WeightPlace place{plan.unit_tiers[i], nullptr};
    if (place.tier == Tier::device) place.data = parts.device_arena.take("weights", plan.units[i].bytes).data();
    if (place.tier == Tier::host) place.data = parts.host_arena.take("weights", plan.units[i].bytes).data();
    home.places.push_back(place);
  }
}

void ComputeUnit::place_experts(const ComputeUnitParts& parts) {
  const Plan& plan = parts.plan;
  if (plan.expert_units.empty()) return;
  experts.units = plan.expert_units;
  for (const WeightUnit& unit : experts.units) {
    WeightPlace place{plan.expert_tier, nullptr};
    if (place.tier == Tier::device) place.data = parts.device_arena.take("experts", unit.bytes).data();
    if (place.tier == Tier::host) place.data = parts.host_arena.take("experts", unit.bytes).data();
    experts.places.push_back(place);
  }
  const auto slots = [&](Arena& arena, int count) {
    return ExpertSlots{arena.take("slots of experts", count * plan.expert_slot_bytes).data(), count,
                       plan.expert_slot_bytes};
  };
  expert_feed =
      std::make_unique<ExpertFeed>(ExpertFeedParts{.home = experts,
                                                   .experts = spec.shape.experts,
                                                   .device = slots(parts.device_arena, plan.expert_device_slots),
                                                   .host = slots(parts.host_arena, plan.expert_host_slots),
                                                   .lane = expert_lane.get(),
                                                   .host_lane = expert_host_lane.get()});
}

void ComputeUnit::place_kv(const ComputeUnitParts& parts) {
  const Plan& plan = parts.plan;
  const KvLayout& layout = plan.kv_layout;
  KvPools pools{.device_slots = plan.kv_device_slots,
                .host_slots = plan.kv_host_slots,
                .disk_slots = plan.kv_disk_slots,
                .device_rows_per_layer = plan.kv_device_rows_per_layer,
                .file = static_cast<uint32_t>(parts.model.checkpoint.files.size()),
                .file_offset = parts.spill_offset,
                .choosing_rows_per_layer = plan.kv_choosing_rows_per_layer,
                .sidecar_count = plan.selection.sidecars};
  pools.device = parts.device_arena.take("KV", layout.bytes(plan.kv_device_slots)).data();
  pools.host = parts.host_arena.take("KV", layout.bytes(plan.kv_host_slots)).data();
  const uint64_t sidecars = plan.selection.partial_keys + plan.selection.key_scales;
  pools.sidecars = parts.device_arena.take("partial keys", sidecars).data();
  kv = std::make_unique<KvCache>(layout, pools);
}

void ComputeUnit::place_selection(const ComputeUnitParts& parts) {
  const SelectionPlan& plan = parts.plan.selection;
  if (!plan.on()) return;
  const auto hot = parts.device_arena.take("hot set", plan.hot_set);
  const auto landing = parts.device_arena.take("landing", plan.landing.bytes());
  if (!landing.empty()) fetch_lane->set_landing(landing, plan.landing);
  chosen_feed = std::make_unique<ChosenFeed>(ChosenFeedParts{.cache = *kv,
                                                             .hot = hot,
                                                             .context = parts.plan.positions,
                                                             .slots = plan.hot_slots,
                                                             .most = plan.most,
                                                             .ahead = plan.wishes.ahead,
                                                             .batch = plan.batch,
                                                             .sequences = plan.sequences,
                                                             .lane = fetch_lane.get()});
  Arena& inputs = device.host_addressable() ? parts.device_arena : parts.host_arena;
  rehearsal = std::make_unique<Rehearsal>(
      RehearsalParts{.spec = spec,
                     .plan = plan,
                     .skew = parts.model.skew.get(),
                     .ops = device.ops(),
                     .compute = *compute,
                     .kv = *kv,
                     .feed = *chosen_feed,
                     .query_matrices = parts.device_arena.take("query matrices", plan.query_matrices),
                     .directions = parts.device_arena.take("directions", plan.directions),
                     .sums = parts.device_arena.take("attention sums", plan.attention_sums),
                     .workspace = parts.device_arena.take("selection", plan.workspace),
                     .host = inputs.take("selection", plan.host_bytes),
                     .context = parts.plan.positions,
                     .traffic = parts.traffic,
                     .far = !device.host_addressable()});
}

void ComputeUnit::load(const Model& model, Traffic& traffic, const std::function<void(uint64_t read)>& progress) {
  WeightLoader loader(device, model.checkpoint, load_staging, traffic);
  for (const auto& [weights, cause] : {std::pair(&home, Cause::weights), std::pair(&experts, Cause::experts)}) {
    for (size_t i = 0; i < weights->units.size(); ++i) {
      const WeightPlace& place = weights->places[i];
      if (place.data == nullptr) continue;
      for (const WeightRun& run : weights->units[i].runs) {
        loader.load(run.extent, run.needed, {place.tier, place.data + run.offset}, cause);
      }
      if (progress) progress(weights->units[i].bytes);
    }
  }
  std::vector<std::byte> read(small.size());
  ModelVectors::read(spec, model.checkpoint, read);
  loader.put(read, small.data());
  loader.finish();
  if (rehearsal) rehearsal->load(device, model.checkpoint, load_staging, traffic);
}

void ComputeUnit::end_feeds() {
  weight_feed->end();
  kv_feed->end();
}

void ComputeUnit::drain() {
  // A queue that failed has already said so at the end of its step.
  try {
    compute->synchronize();
  } catch (const std::exception&) {
  }
  for (const auto* lane : {&weight_lane, &fetch_lane, &spill_lane, &expert_host_lane, &expert_lane}) {
    if (*lane) (*lane)->drain();
  }
}

}  // namespace spillway
