#include "tests/support/placed_run.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "kernels/backend.h"
#include "kernels/kv_span.h"
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

// A CPU beside the device, where layers are divided.
std::unique_ptr<Device> cpu_for(const Options& options) {
  return options.device_layers ? make_cpu_device({.threads = 2}) : nullptr;
}

// What the refusal names; by little, beside what the device has taken anyway.
void raise_budgets(Options& options, const std::string& refusal, const Device& device) {
  constexpr uint64_t kHostStep = 64 << 10, kLeastStep = 4 << 10;
  const bool host_short = refusal.find("--host-mem is") != std::string::npos;
  const bool device_short = refusal.find("--device-mem is") != std::string::npos;
  if (options.host_bytes && (host_short || !device_short)) options.host_bytes = *options.host_bytes + kHostStep;
  if (device_short || !host_short) {
    const uint64_t ours = *options.device_bytes - std::min(*options.device_bytes, device.overhead_bytes());
    options.device_bytes = *options.device_bytes + std::max(ours / 64, kLeastStep);
  }
}

PlacedRun run(Engine& engine, const PlacedWork& work) {
  PlacedRun run;
  run.covered = cover(engine.plan(), static_cast<int>(work.prompt.size() + work.decoded.size()));
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

}  // namespace

Plan plan_for_test(const Model& model, const Options& options, Device& device, Device* cpu) {
  const Limits limits{.disk_read = 1e9, .link = 10e9, .weight_bytes = 10e9, .prefill_flops = 100e9};
  std::optional<HostUnit> host;
  if (cpu != nullptr) host.emplace(HostUnit{*cpu, cpu->ops(), limits});
  return make_plan({.options = options,
                    .spec = model.spec,
                    .checkpoint = model.checkpoint,
                    .device = device,
                    .ops = device.ops(),
                    .limits = limits,
                    .process_bytes = 0,
                    .host = host ? &*host : nullptr});
}

Plan raised_plan(const Model& model, Options& options, Device& device, Device* cpu) {
  for (;;) {
    try {
      return plan_for_test(model, options, device, cpu);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::fit) throw;
      raise_budgets(options, error.what(), device);
    }
  }
}

Engine engine_for_test(const Model& model, const Options& options, Device& device, Device* cpu) {
  return Engine(model, options, plan_for_test(model, options, device, cpu), {device, cpu}, {});
}

Engine raised_engine(const Model& model, Options& options, Device& device, Device* cpu) {
  Plan plan = raised_plan(model, options, device, cpu);
  return Engine(model, options, std::move(plan), {device, cpu}, {});
}

PlacedRun run_placed(const Model& model, Device& device, const Options& options, const PlacedWork& work) {
  const std::unique_ptr<Device> cpu = cpu_for(options);
  Engine engine = engine_for_test(model, options, device, cpu.get());
  return run(engine, work);
}

PlacedRun run_raised(const Model& model, Device& device, Options& options, const PlacedWork& work, uint64_t beyond) {
  const std::unique_ptr<Device> cpu = cpu_for(options);
  raised_plan(model, options, device, cpu.get());
  options.device_bytes = *options.device_bytes + beyond;
  Engine engine = engine_for_test(model, options, device, cpu.get());
  return run(engine, work);
}

}  // namespace spillway
