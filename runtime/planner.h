// The greedy planner: budgets in, placement out, from measured limits of the machine. Reserves nothing.
#pragma once

#include "kernels/device.h"
#include "kernels/ops.h"
#include "loader/model_spec.h"
#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

// Measured limits that a plan's speed is predicted from.
struct Limits {
  double disk_read = 1e9;        // bytes/s, O_DIRECT
  double link = 10e9;            // bytes/s, host to device
  double weight_bytes = 10e9;    // bytes/s of weights that decode kernels read
  double prefill_flops = 100e9;  // of the matrix product at a full chunk
};

struct PlanInput {
  const Options& options;
  const ModelSpec& spec;
  const Checkpoint& checkpoint;
  const Device& device;
  const Ops& ops;
  Limits limits;
  uint64_t process_bytes = 0;  // resident set of the process before anything is reserved, with margin for stacks
};

// Throws Error(fit) with the numbers and the nearest thing that would fit.
Plan make_plan(const PlanInput& input);

}  // namespace spillway
