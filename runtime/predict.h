// What a plan may be expected to run at, from measured limits of the machine: its own schedule, played in simulated
// time.
#pragma once

#include <map>

#include "kernels/shape.h"
#include "runtime/hardware_profile.h"
#include "runtime/plan.h"

namespace spillway {

// Measured limits that a plan's speed is predicted from; 0: not known.
struct Limits {
  double disk_read = 0;      // bytes/s, O_DIRECT
  double link = 0;           // bytes/s, host to device
  double weight_bytes = 0;   // bytes/s of weights that decode kernels read
  double prefill_flops = 0;  // of the matrix product at a full chunk
  // Of a type's own; of the others, as above.
  std::map<DType, WeightSpeed> types = {};
  double kv_bytes = 0;  // bytes/s of KV that decode's attention reads; 0: as of weights
  double call_s = 0;    // seconds of a step's operation beside what its bytes take

  double decode_speed(DType type) const {
    const auto found = types.find(type);
    return found == types.end() ? weight_bytes : found->second.decode_bytes;
  }
  double prefill_speed(DType type) const {
    const auto found = types.find(type);
    return found == types.end() ? prefill_flops : found->second.prefill_flops;
  }
  double kv_speed() const { return kv_bytes > 0 ? kv_bytes : weight_bytes; }
};

// Empty bound and no speeds where one of the first four limits is not known.
Expected predict(const Plan& plan, const ModelShape& shape, const Limits& limits);

}  // namespace spillway
