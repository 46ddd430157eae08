#include "perf/simulated/block.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/backend.h"
#include "memory/kv/layout.h"
#include "runtime/batch_schedule.h"
#include "runtime/planner.h"
#include "tests/support/spec_model.h"

namespace spillway {
namespace {

// Plays the batch schedule, pass by pass.
class Player {
 public:
  Player(const ModelSpec& spec, const Limits& limits, const Plan& plan, const BlockWork& work)
      : spec_(spec), limits_(limits), plan_(plan), work_(work) {}

  SimulatedBlock play() {
    BatchSchedule schedule({.pages = page_rows(plan_.context),
                            .sequences = plan_.batch,
                            .rows = plan_.chunk + (plan_.batch > 1 ? plan_.batch : 0),
                            .chunk = plan_.chunk,
                            .shared_unit = 0});  // no two prompts are alike
    const std::vector<int32_t> prompt(static_cast<size_t>(work_.prompt));
    for (int request = 0; request < plan_.batch; ++request) {
      schedule.add(request, prompt, work_.prompt + work_.answer);
    }
    schedule.admit();
    std::vector<int> answered(static_cast<size_t>(plan_.batch));
    SimulatedBlock block{.plan = plan_, .answer = work_.answer, .bound = {}};
    for (; schedule.running() > 0; ++block.passes) {
      const std::vector<ScheduledPart> parts = schedule.next_pass();
      const PassLoad load = load_of(parts);
      (load.prefilled > 0 ? block.prompt_s : block.answer_s) += seconds(load);
      schedule.computed(parts);
      for (const ScheduledPart& part : parts) {
        if (!part.decode && !part.ends_prompt) continue;
        if (++answered[static_cast<size_t>(part.request)] == work_.answer) schedule.end(part.request);
      }
      schedule.admit();
    }
    return block;
  }

 private:
  static PassLoad load_of(const std::vector<ScheduledPart>& parts) {
    PassLoad load;
    for (const ScheduledPart& part : parts) {
      load.logit_rows += part.decode || part.ends_prompt ? 1 : 0;
      (part.decode ? load.decoded : load.prefilled) += part.count;
      if (part.decode) load.positions += part.first + 1;
    }
    return load;
  }

  double seconds(const PassLoad& load) {
    const std::array<int, 4> key{load.decoded, load.prefilled, load.logit_rows, load.positions};
    const auto [found, fresh] = known_.try_emplace(key);
    if (fresh) found->second = predict_pass(plan_, spec_, limits_, load);
    return found->second;
  }

  const ModelSpec& spec_;
  const Limits& limits_;
  const Plan& plan_;
  const BlockWork& work_;
  std::map<std::array<int, 4>, double> known_;
};

double spill_seconds(const Plan& plan, const GivenMachine& machine) {
  const auto host = static_cast<double>(plan.kv_layout.bytes(plan.kv_host_slots));
  const auto disk = static_cast<double>(plan.kv_layout.bytes(plan.kv_disk_slots));
  return std::max((host + disk) / machine.link_out, disk / machine.disk_write);
}

// See SimulatedBlock::bound_s. KV that streams would only add to it.
void set_bound(SimulatedBlock& block, const GivenMachine& machine, const BlockWork& work) {
  double from_host = 0, from_disk = 0, products = 0;
  const double rows = work.prompt + work.answer - 1, logits = work.answer;
  for (size_t i = 0; i < block.plan.units.size(); ++i) {
    const WeightUnit& unit = block.plan.units[i];
    if (block.plan.unit_tiers[i] == Tier::host) from_host += static_cast<double>(unit.bytes);
    if (block.plan.unit_tiers[i] == Tier::disk) from_disk += static_cast<double>(unit.bytes);
    for (const WeightSlice& slice : unit.slices) {
      products += (unit.stage == Stage::head ? logits : rows) * static_cast<double>(slice.rows * slice.cols);
    }
  }
  const double disk_s = work.answer * from_disk / machine.disk_read;
  const double link_s = work.answer * (from_host + from_disk) / machine.link;
  const double compute_s = 2 * block.plan.batch * products / machine.flops;
  block.bound_s = std::max({disk_s, link_s, compute_s});
  block.bound = block.bound_s == disk_s ? "disk" : block.bound_s == link_s ? "link" : "compute";
}

nlohmann::json tiers_of(const Plan& plan, uint64_t TierPlan::*what) {
  return {{"device", plan.tier(Tier::device).*what},
          {"host", plan.tier(Tier::host).*what},
          {"disk", plan.tier(Tier::disk).*what}};
}

}  // namespace

std::optional<SimulatedBlock> simulate_block(const ModelSpec& spec, const Checkpoint& checkpoint,
                                             const GivenMachine& machine, const BlockWork& work) {
  // Sizes of scratch are the CPU operations': a GPU's differ by a few MiB of 15 GiB.
  const std::unique_ptr<Device> near = make_cpu_device({.threads = 1});
  const FarDevice device(*near);
  const Limits limits = machine.limits();
  Options options;
  options.device_bytes = machine.device_bytes;
  options.host_bytes = machine.host_bytes;
  const uint64_t weights = checkpoint.weight_bytes();  // lie on the same drive
  options.disk_bytes = machine.disk_bytes - std::min(machine.disk_bytes, weights);
  options.kv_codec = work.kv_codec;
  options.kv_edge_layers = work.kv_edge_layers;
  const auto make = [&](const Options& own) {
    return plan_unit({.options = own,
                      .spec = spec,
                      .checkpoint = checkpoint,
                      .device = device,
                      .ops = near->ops(),
                      .limits = limits});
  };
  std::optional<SimulatedBlock> best;
  for (const int chunk : work.chunks) {
    options.chunk = chunk;
    const auto batch = plan_batch(options, {.positions = work.prompt + work.answer, .sequences = work.sequences}, make);
    if (!batch) continue;
    SimulatedBlock block = Player(spec, limits, batch->plan, work).play();
    block.spill_s = spill_seconds(block.plan, machine);
    set_bound(block, machine, work);
    if (!best || block.tokens_per_second() > best->tokens_per_second()) best = std::move(block);
  }
  return best;
}

nlohmann::json to_json(const SimulatedBlock& block) {
  const Expected& step = block.plan.expected;
  return {{"simulated", true},
          {"tokens_per_second", block.tokens_per_second()},
          {"bound_tokens_per_second", block.bound_tokens_per_second()},
          {"bound_by", block.bound},
          {"sequences", block.plan.batch},
          {"chunk", block.plan.chunk},
          {"passes", block.passes},
          {"seconds", {{"prompts", block.prompt_s}, {"answers", block.answer_s}, {"kv_out", block.spill_s}}},
          {"decode_step",
           {{"binds", step.bound},
            {"tokens_per_second", step.decode_tps},
            {"compute_s", step.compute_s},
            {"link_s", step.link_s},
            {"disk_s", step.disk_s}}},
          {"weights", tiers_of(block.plan, &TierPlan::weights)},
          {"kv", tiers_of(block.plan, &TierPlan::kv)},
          {"reasons", block.plan.reasons}};
}

}  // namespace spillway
