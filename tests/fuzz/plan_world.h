// What the fuzzer's plans are made for, and carried out for: a dense model and one of experts, of which only the facts
// exist, a CPU, and a device beside it.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "runtime/planner.h"
#include "tests/fuzz/folder.h"
#include "tests/support/spec_model.h"

namespace spillway {

struct PlanWorld {
  const Limits limits{
      .disk_read = 2e9, .disk_latency_s = 1e-4, .link = 1e10, .weight_bytes = 2e10, .prefill_flops = 1e12};
  const std::unique_ptr<Device> cpu = make_cpu_device({.threads = 1});
  const FarDevice far{*cpu};
  const HostUnit host{*cpu, cpu->ops(), limits};
  const Folder folder;
  const SpecModel dense{
      {.layers = 6, .hidden = 128, .heads = 4, .kv_heads = 2, .head_dim = 32, .ffn = 256, .vocab = 512},
      folder.path("dense")};
  const SpecModel experts{
      {.layers = 4, .hidden = 64, .heads = 2, .kv_heads = 2, .head_dim = 32, .ffn = 96, .experts = 4},
      folder.path("experts")};

  PlanInput input(const SpecModel& model, bool beside, const Options& options) const {
    return {.options = options,
            .spec = model.spec,
            .checkpoint = model.checkpoint,
            .device = beside ? static_cast<const Device&>(far) : *cpu,
            .ops = cpu->ops(),
            .limits = limits,
            .host = beside ? &host : nullptr};
  }
};

}  // namespace spillway
