// The greedy planner: budgets in, placement out, from measured limits of the machine. Reserves nothing.
#pragma once

#include <optional>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "loader/model_spec.h"
#include "runtime/options.h"
#include "runtime/plan.h"
#include "runtime/predict.h"
#include "runtime/skew.h"

namespace spillway {

// The CPU beside a device that has memory of its own: it may compute layers too.
struct HostUnit {
  const Device& device;
  const Ops& ops;
  Limits limits;
};

struct PlanInput {
  const Options& options;
  const ModelSpec& spec;
  const Checkpoint& checkpoint;
  const Device& device;
  const Ops& ops;
  Limits limits;
  uint64_t process_bytes = 0;  // resident set of the process before anything is reserved, with margin for stacks
  const HostUnit* host = nullptr;
  const Skew* skew = nullptr;  // of the whole model; null where none was made: then partial keys are parts of keys
};

// All layers of input.spec on input.device; nothing when a budget is too small.
std::optional<Plan> plan_unit(const PlanInput& input);
// Throws Error(fit) with the numbers and the nearest thing that would fit.
Plan make_plan(const PlanInput& input);

}  // namespace spillway
