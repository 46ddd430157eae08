// Session: from options to a plan and an engine, in the order in which things may be refused.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/engine.h"
#include "runtime/machine.h"
#include "runtime/planner.h"

namespace spillway {

// The device that computes, and one line that says which and why.
struct ChosenDevice {
  std::unique_ptr<Device> device;
  std::string said;
};
// automatic: a GPU where module, driver and GPU are there and its kernels know the model, else the CPU. Throws
// Error(io) where a GPU was asked for and cannot be had, Error(usage) for wishes that do not go together.
ChosenDevice choose_device(const Options& options, const ModelShape& shape);

// The machine's measured limits, from the cache where they are known: about a second otherwise, in at most a quarter of
// the device's budget. `cache_file`: where they are kept.
Machine measure_session(const Model& model, const Options& options, Device& device, const std::string& cache_file,
                        const std::function<void(std::string_view line)>& progress);
// What the planner needs of them for this model.
Limits limits_of(const Machine& machine, const Model& model, const Options& options);

// Fills in the budgets that were not given: most of what is free on the device (beside a GPU, of the host too), a
// twentieth and at least 192 MiB being left; and the context: at most the model's. Then plans. Throws Error(fit) before
// anything is reserved, also where memory or the folder of the spill file has less free than the plan takes.
Plan plan_session(const Model& model, Options& options, const Device& device, Ops& ops, const Limits& limits);

// One line of where things are: for the start of a run.
std::string describe_placement(const Plan& plan);
// The whole plan as a table, one line an item.
std::string describe_plan(const Plan& plan);

}  // namespace spillway
