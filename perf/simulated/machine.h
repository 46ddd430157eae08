// GivenMachine: a machine as numbers that were published, for what is simulated. Nothing of it was measured here.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "runtime/predict.h"

namespace spillway {

struct GivenMachine {
  std::string name;
  std::string source;  // of the numbers
  // Bytes.
  uint64_t device_bytes = 0, host_bytes = 0, disk_bytes = 0;
  // Bytes a second: host to device, device to host, the drive, memory of the device.
  double link = 0, link_out = 0, disk_read = 0, disk_write = 0, device_memory = 0;
  double flops = 0;  // of matrix products, a multiply-add counting two

  // Latencies of the drive and of launches are not published, and not counted.
  Limits limits() const;
};

// t4-fitted, t4-peaks, or the path of a JSON file with every field of to_json(). Throws Error(usage) for another name,
// Error(model) for a file with a field that is missing or no positive number.
GivenMachine given_machine(const std::string& name);
nlohmann::json to_json(const GivenMachine& machine);

}  // namespace spillway
