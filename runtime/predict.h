// What a plan may be expected to run at, from measured limits of the machine: its own schedule, played in simulated
// time.
#pragma once

#include "kernels/shape.h"
#include "runtime/plan.h"

namespace spillway {

// Measured limits that a plan's speed is predicted from.
struct Limits {
  double disk_read = 1e9;        // bytes/s, O_DIRECT
  double link = 10e9;            // bytes/s, host to device
  double weight_bytes = 10e9;    // bytes/s of weights that decode kernels read
  double prefill_flops = 100e9;  // of the matrix product at a full chunk
};

// Empty bound and no speeds when a limit is not known (0).
Expected predict(const Plan& plan, const Limits& limits);

}  // namespace spillway
