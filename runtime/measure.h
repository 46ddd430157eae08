// The measurements behind runtime/machine.h. Each takes about the seconds it is given.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device.h"
#include "runtime/hardware_profile.h"

namespace spillway {

using SayLine = std::function<void(std::string_view line)>;  // never empty here

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct ComputeWishes {
  std::vector<DType> types;
  HeadShape heads;  // of attention; none: not measured
  int threads = 0;
  uint64_t most_bytes = 0;
  double seconds = 1;
};

// Bytes that reads should go over on this machine: twice the last cache level, within most_bytes and what is free.
uint64_t measuring_set(const Device& device, uint64_t most_bytes);
// Adds to `known` what it lacks of the wishes: memory and copies, and each type that is not there yet.
ComputeProfile measure_compute(Device& device, const ComputeWishes& wishes, ComputeProfile known, const SayLine& say);

// Reads from the file's drive.
DiskProfile measure_reads(Device& device, const std::string& path, double seconds);
// Writes to an unnamed file in the folder, and reads it back. All zero where the drive has no room for it.
DiskProfile measure_writes(Device& device, const std::string& folder, double seconds);

}  // namespace spillway
