// Doctor: what of this machine helps a run, and what hinders it: each finding is ok, slow or broken, and says how to
// mend it. Measures with the means that a run uses: our kernels, copies and disk queue.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/hardware_profile.h"

namespace spillway {

enum class Health : uint8_t {
  ok,
  slow,    // a run works, but not as fast as it could
  broken,  // what should be there cannot be used
};
inline constexpr const char* kHealthNames[] = {"ok", "slow", "broken"};

struct Finding {
  std::string name;
  Health health = Health::ok;
  std::string found;
  std::string mend = {};  // what to do; empty where all is well
};

// `root`, here and below, holds proc and sys. Processor, kernels, nodes, memory and its speed, limits of the control
// groups and of locked memory. `device`: the CPU. Takes about a second.
std::vector<Finding> examine_host(Device& device, const std::filesystem::path& root = "/");

// The ways to the drive of `model_file` (empty: none is looked at) and to the folder where KV may be spilled. Takes
// about a second.
std::vector<Finding> examine_drives(Device& device, const std::string& model_file, const std::string& spill_folder,
                                    const std::filesystem::path& root = "/");

// Card, driver, module, link and pinned memory. Takes a second where there is a GPU.
std::vector<Finding> examine_gpu(const CudaOptions& options, const std::filesystem::path& root = "/");

// What the parts above judge by; for tests.

// limit: RLIMIT_MEMLOCK in bytes, nothing where there is none; exempt: the process may lock as much as it likes.
Finding judge_locked_memory(std::optional<uint64_t> limit, bool exempt);
// found and allowed: processors that may be used, and what the quota pays for.
Finding judge_groups(std::optional<uint64_t> memory_limit, uint64_t memory_free, std::optional<double> quota,
                     int units);
Finding judge_reads(const std::string& what, const DiskProfile& profile);
Finding judge_writes(const std::string& folder, const DiskProfile& profile);

// A GPU's slot as the kernel describes it; 0 and empty where it does not.
struct PciCard {
  std::string address;
  int width = 0, most_width = 0;  // lanes
  double most_gt = 0;             // GT/s of a lane at full speed; at rest it may be less
  int node = -1;                  // of memory
  // Bytes a second that the link as it is can carry, by encoding alone; 0: not known.
  double bytes_per_second() const;
};
std::vector<PciCard> nvidia_cards(const std::filesystem::path& root);
// "550.54.15"; empty where no driver is loaded.
std::string nvidia_driver(const std::filesystem::path& root);
// The finding on card and driver where the module sees no device; `report`: the module's own words.
Finding judge_missing_gpu(const std::vector<PciCard>& cards, const std::string& driver, bool module_found,
                          const std::string& report);
Finding judge_link(const PciCard& card);

}  // namespace spillway
