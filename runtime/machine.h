// Machine: what this machine is and how fast it has been measured to be. Every prediction of the planner, and every "%
// of the link" in a report, rests on it. Measured through our own kernels, copies and disk queue, in about a second,
// and kept.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device.h"
#include "runtime/hardware_profile.h"
#include "runtime/other_load.h"

namespace spillway {

struct MachineOptions {
  std::string model_path;                    // reads of its drive are measured on this file; empty: none
  std::string disk_folder;                   // writes of its drive are measured on an unnamed file in it; empty: none
  std::vector<DType> types = {DType::q4_0};  // weight types to measure
  HeadShape heads;                           // attention to measure; none: not measured
  int threads = 0;                           // as the device was made
  // Memory that measuring may take: it is inside the process's budget like all else. Less than twice the last cache
  // level gives reads that are too fast; ComputeProfile::working_set says what was used.
  uint64_t most_bytes = uint64_t{256} << 20;
  std::string cache_file;            // empty: measured each time, kept nowhere
  bool measure = true;               // false: only what the cache holds; the rest stays 0
  bool refresh = false;              // measure again, whatever was kept
  double seconds = 1.3;              // that all of it may take, about
  double most_others = kMostOthers;  // what was measured with more of others' work is doubted
  std::function<void(std::string_view line)> progress;
};

struct Machine {
  std::string processor;
  std::string device;  // Device::name()
  std::string kernel;  // release of the operating system's kernel
  int cores = 0;       // physical ones that we may use
  int threads = 0;     // workers that the reads were measured with
  uint64_t memory_total = 0;
  uint64_t memory_free = 0;  // now; control groups counted
  ComputeProfile compute;
  DiskProfile model_disk;  // of the drive of model_path
  DiskProfile spill_disk;  // of the drive of disk_folder
  bool kept = false;       // all of it was found in the cache

  // Of the type; where it was not measured, of the slowest one that was.
  WeightSpeed weight_speed(DType type) const;
  // 0: not measured.
  double attention_speed(const HeadShape& heads) const;
};

// From the cache, and what is not there by measuring. A cache that is broken, or another machine's, is measured over;
// one that cannot be written is said through `progress`. Throws Error(model) for a missing model file, Error(io) for a
// drive that fails. Leaves the device's scratch unset.
Machine measure_machine(Device& device, const MachineOptions& options);

nlohmann::json to_json(const Machine& machine);

}  // namespace spillway
