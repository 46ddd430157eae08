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
};

struct DiskProfile {
  double read = 0;       // bytes a second, large pieces, several in flight
  double write = 0;      // the same for writing
  double latency_s = 0;  // of one small read, median
  std::string method;    // how the queue reads (kDiskMethodNames)
  // The page cache stands between: then these are no speeds of the drive.
  bool through_cache = false;
};

nlohmann::json to_json(const ComputeProfile& profile);
nlohmann::json to_json(const DiskProfile& profile);
// Nothing when a field is missing, of another type, not finite or beyond what any machine has.
std::optional<ComputeProfile> compute_profile_from(const nlohmann::json& json);
std::optional<DiskProfile> disk_profile_from(const nlohmann::json& json);

}  // namespace spillway
