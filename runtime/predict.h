// What a plan may be expected to run at, from measured limits of the machine: its own schedule, played in simulated
// time.
#pragma once

#include <map>

#include "loader/model_spec.h"
#include "runtime/hardware_profile.h"
#include "runtime/plan.h"

namespace spillway {

// Measured limits that a plan's speed is predicted from; 0: not known.
struct Limits {
  double disk_read = 0;       // bytes/s, O_DIRECT
  double disk_latency_s = 0;  // until the first byte of a read comes
  double link = 0;            // bytes/s, host to device
  double weight_bytes = 0;    // bytes/s of weights that decode kernels read
  double prefill_flops = 0;   // of the matrix product at a full chunk
  // Of a type's own; of the others, as above.
  std::map<DType, WeightSpeed> types = {};
  double kv_bytes = 0;  // bytes/s of KV that decode's attention reads; 0: as of weights
  double call_s = 0;    // seconds of a step's operation beside what its bytes take
  // What the model's own layers, and its head, took beside what the above says of them; 1: they were not measured.
  double decode_scale = 1, head_scale = 1, chunk_scale = 1;
  // And of what the two say together, a step's reading and a chunk's arithmetic, by rows from 1 on: between numbers of
  // rows that were measured it follows the logarithm. Empty: 1.
  std::map<int, double> rows_scale = {}, head_rows_scale = {};

  double decode_speed(DType type) const {
    const auto found = types.find(type);
    return found == types.end() ? weight_bytes : found->second.decode_bytes;
  }
  double prefill_speed(DType type) const {
    const auto found = types.find(type);
    return found == types.end() ? prefill_flops : found->second.prefill_flops;
  }
  static double scale_of(const std::map<int, double>& by_rows, int rows);
  double kv_speed() const { return kv_bytes > 0 ? kv_bytes : weight_bytes; }
};

// Sets the scales from what the first layers of the model took.
void calibrate(Limits& limits, const ModelSpec& spec, const Checkpoint& checkpoint, const LayerTimes& times);

// What one pass computes.
struct PassLoad {
  int decoded = 0;    // rows of decode steps, each of a sequence of its own
  int prefilled = 0;  // rows of prompts
  int logit_rows = 0;
  int positions = 0;  // that the sequences of its decode steps hold together
};

// spec: of the plan's layers. Empty bound and no speeds where one of the first limits is not known.
Expected predict(const Plan& plan, const ModelSpec& spec, const Limits& limits);
// Seconds of one pass among others like it, without the layers before the plan's; of prompts' rows no attention is
// counted. 0 where the limits are not known.
double predict_pass(const Plan& plan, const ModelSpec& spec, const Limits& limits, const PassLoad& load);

}  // namespace spillway
