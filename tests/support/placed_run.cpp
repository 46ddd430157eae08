#include "tests/support/placed_run.h"

#include <optional>
#include <random>

#include "kernels/backend.h"
#include "kernels/kv_span.h"
#include "runtime/engine.h"
#include "runtime/planner.h"

namespace spillway {

Model open_for_test(const std::string& path) {
  Model model{.checkpoint = open_model(path), .spec = {}, .tokenizer = nullptr};
  model.spec = read_model_spec(model.checkpoint);
  return model;
}

std::vector<int32_t> random_ids(uint64_t seed, int count, int vocab) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocab);
  return ids;
}

namespace {

Covered cover(const Plan& plan, int positions) {
  Covered covered;
  covered.spans = (positions + kSpanTokens - 1) / kSpanTokens;
  covered.kv_on_host = plan.kv_host_slots.rows() > 0;
  covered.kv_on_disk = plan.kv_disk_slots.rows() > 0;
  covered.layer_kv_in_two_tiers = plan.spills_kv() && plan.kv_device_rows_per_layer * kPageTokens < positions;
  covered.experts_move = plan.moves_experts();
  covered.experts_from_host = plan.expert_host_slots > 0 || (plan.moves_experts() && plan.expert_tier == Tier::host);
  covered.layers_on_cpu = plan.first_layer > 0;
  for (const Plan& cpu : plan.before) {
    const Covered of_cpu = cover(cpu, positions);
    // Its device is the host.
    covered.kv_on_host = true;
    covered.kv_on_disk |= of_cpu.kv_on_disk;
    covered.layer_kv_in_two_tiers |= of_cpu.layer_kv_in_two_tiers;
    covered.layer_from_disk |= of_cpu.layer_from_disk;
    covered.experts_move |= of_cpu.experts_move;
  }
  for (size_t i = 0; i < plan.units.size(); ++i) {
    covered.layer_from_disk |= plan.unit_tiers[i] == Tier::disk && plan.units[i].stage != Stage::head;
    covered.weights_from_host |= plan.unit_tiers[i] == Tier::host;
  }
  return covered;
}

}  // namespace

PlacedRun run_placed(const Model& model, Device& device, const Options& options, const PlacedWork& work) {
  std::unique_ptr<Device> cpu;
  std::optional<HostUnit> host;
  if (options.device_layers) {
    cpu = make_cpu_device({.threads = 2});
    host.emplace(HostUnit{*cpu, cpu->ops(), {}});
  }
  Plan plan = make_plan({.options = options,
                         .spec = model.spec,
                         .checkpoint = model.checkpoint,
                         .device = device,
                         .ops = device.ops(),
                         .limits = {},
                         .process_bytes = 0,
                         .host = host ? &*host : nullptr});
  PlacedRun run;
  run.covered = cover(plan, static_cast<int>(work.prompt.size() + work.decoded.size()));
  Engine engine(model, options, std::move(plan), {device, cpu.get()}, {});
  const SequenceId sequence = engine.open_sequence();
  const auto keep = [&](std::span<const float> logits) {
    run.logits.insert(run.logits.end(), logits.begin(), logits.end());
  };
  engine.prefill(sequence, work.prompt, work.prompt_rows, !work.decoded.empty(),
                 [&](int, std::span<const float> logits) { keep(logits); });
  for (size_t i = 0; i < work.decoded.size(); ++i)
    keep(engine.decode(sequence, work.decoded[i], i + 1 < work.decoded.size()));
  const ChosenCounts chosen = engine.chosen_counts();
  run.covered.granules_fetched = chosen.granules > chosen.in_place + chosen.hits;
  return run;
}

}  // namespace spillway
