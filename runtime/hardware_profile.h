// HardwareProfile: measured limits as values, and as JSON for the cache and for `perf/limits`.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "kernels/view.h"

namespace spillway {

// How something was measured: what was measured while others used the processors is too slow, and measured again at
// later starts, a few times; the better counts.
struct Conditions {
  double others = 0;  // share of our processors' time that others used
  int tries = 1;
};

// Speed of the device's own matrix product with one weight type.
struct WeightSpeed {
  double decode_bytes = 0;   // bytes of weights a second with one row (matrix-vector)
  double prefill_flops = 0;  // operations a second with a full chunk of rows; a multiply-add counts two
};

// Heads that attend together: of queries, of keys and values, and their elements.
struct HeadShape {
  int heads = 0, kv_heads = 0, head_dim = 0;

  auto operator<=>(const HeadShape&) const = default;
};

// Speeds in bytes a second; 0: not measured.
struct ComputeProfile {
  double memory_read = 0;     // host memory, read by all workers
  double host_to_device = 0;  // one copy stream (on a CPU: memory to memory)
  double device_to_host = 0;
  double device_memory = 0;  // read and written by copies within a device that has memory of its own
  std::map<DType, WeightSpeed> weights;
  std::map<HeadShape, double> attention;  // half-precision KV that decode reads; 0: no room to measure it in
  double call_s = 0;                      // seconds of an operation on hardly any data, of many that are enqueued
  // Bytes that the reads went over: a set that a cache holds reads faster than memory.
  uint64_t working_set = 0;
  Conditions conditions;
};

// What the first layers of a model take, through the pass that runs them, in seconds; 0 layers: not measured.
struct LayerTimes {
  int layers = 0;
  int chunk = 0;        // rows
  double decode_s = 0;  // of a step through these layers, hardly any KV being there
  double head_s = 0;    // of the head for one row
  double chunk_s = 0;   // of a chunk that begins a prompt, through these layers
  // Between the two: by numbers of rows, seconds of the layers, and of the head for as many rows of logits. Neither the
  // reading of the weights nor the arithmetic says them: kernels for few rows unpack a weight for each group of them.
  std::map<int, double> rows_s, head_rows_s;
  Conditions conditions;
};

struct DiskProfile {
  double read = 0;       // bytes a second, large pieces, several in flight
  double write = 0;      // the same for writing
  double latency_s = 0;  // of one small read, median
  std::string method;    // how the queue reads (kDiskMethodNames)
  // The page cache stands between: then these are no speeds of the drive.
  bool through_cache = false;
  Conditions conditions;
};

// Of two measurements of the same, the faster one of each.
ComputeProfile better_of(ComputeProfile a, const ComputeProfile& b);
DiskProfile better_of(DiskProfile a, const DiskProfile& b);
LayerTimes better_of(LayerTimes a, const LayerTimes& b);

nlohmann::json to_json(const ComputeProfile& profile);
nlohmann::json to_json(const DiskProfile& profile);
nlohmann::json to_json(const LayerTimes& times);
// Nothing when a field is missing, of another type, not finite or beyond what any machine has.
std::optional<ComputeProfile> compute_profile_from(const nlohmann::json& json);
std::optional<DiskProfile> disk_profile_from(const nlohmann::json& json);
std::optional<LayerTimes> layer_times_from(const nlohmann::json& json);

}  // namespace spillway
