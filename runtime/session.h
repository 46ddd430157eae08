// Session: from options to a plan and an engine, in the order in which things may be refused.
#pragma once

#include <memory>
#include <string>

#include "runtime/engine.h"
#include "runtime/planner.h"

namespace spillway {

// The device that computes, and one line that says which and why.
struct ChosenDevice {
  std::unique_ptr<Device> device;
  std::string said;
};
ChosenDevice choose_device(const Options& options);

// Fills in the budgets that were not given: most of what is free on the device, leaving headroom; and the context: at most the
// model's. Then plans. Throws Error(fit) before anything is reserved.
Plan plan_session(const Model& model, Options& options, const Device& device, Ops& ops, const Limits& limits);

// One line of where things are: for the start of a run.
std::string describe_placement(const Plan& plan);
// The whole plan as a table, one line an item.
std::string describe_plan(const Plan& plan);

}  // namespace spillway
