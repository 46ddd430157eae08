// Session: from options to a plan and an engine, in the order in which things may be refused.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/engine.h"
#include "runtime/machine.h"
#include "runtime/plan_file.h"
#include "runtime/planner.h"

namespace spillway {

// The device that computes, and one line that says which and why; beside it, where it may be given layers, the CPU.
struct ChosenDevice {
  std::unique_ptr<Device> device;
  std::string said;
  std::unique_ptr<Device> cpu;
};
// automatic: a GPU where module, driver and GPU are there and its kernels know the model, else the CPU. Throws
// Error(io) where a GPU was asked for and cannot be had, Error(usage) for wishes that do not go together.
ChosenDevice choose_device(const Options& options, const ModelShape& shape);

// The CPU, where it may be given layers beside the device: beside a GPU, unless all layers were asked for (-ngl); where
// tiers are emulated, when fewer were. Null elsewhere. Budgets must be known.
std::unique_ptr<Device> cpu_beside(const Options& options, const ModelShape& shape, const Device& device);

// Of each unit; the CPU's are not known where there is none beside the device, or the device is emulated.
struct SessionLimits {
  Limits device, cpu;
  uint64_t process = 0;  // resident set that plans count with (process_to_plan()); 0: as it is when each is made
};

// The machine's measured limits, from the cache where they are known: about a second otherwise, in at most a quarter of
// the device's budget. `cache_file`: where they are kept.
SessionLimits measure_session(const Model& model, const Options& options, const ChosenDevice& chosen,
                              const std::string& cache_file,
                              const std::function<void(std::string_view line)>& progress);

// Fills in the budgets that were not given: most of what is free on the device (beside a GPU, of the host too), a
// twentieth and at least 192 MiB being left; and the context: at most the model's. Then plans. Throws Error(fit) before
// anything is reserved, also where memory or the folder of the spill file has less free than the plan takes. `given`:
// the plan is this one, whose budgets and context `options` has.
Plan plan_session(const Model& model, Options& options, const ChosenDevice& chosen, const SessionLimits& limits,
                  const PlanFile* given = nullptr);

}  // namespace spillway
