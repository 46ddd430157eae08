#include "runtime/machine.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cores.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "runtime/disk_folder.h"
#include "runtime/machine_cache.h"
#include "runtime/measure.h"

namespace spillway {
namespace {

// Shares of the time: reads and writes of a drive each, and all that computes.
constexpr double kDiskShare = 0.2;
constexpr double kComputeShare = 0.6;

std::string kernel_release() {
  utsname names{};
  return ::uname(&names) == 0 ? names.release : "unknown";
}

// The drive that a path lies on; nothing where there is no such path.
std::string drive_of(const std::string& path) {
  struct stat status {};
  if (path.empty() || ::stat(path.c_str(), &status) != 0) return "";
  return fmt::format("drive {}:{}", major(status.st_dev), minor(status.st_dev));
}

Machine facts(const Device& device, const MachineOptions& options) {
  Machine machine;
  machine.processor = processor_name();
  machine.device = device.name();
  machine.kernel = kernel_release();
  machine.cores = Cores(0).workers();
  machine.threads = options.threads > 0 ? options.threads : machine.cores;
  machine.memory_total =
      static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  machine.memory_free = free_memory_bytes();
  return machine;
}

class Measuring {
 public:
  Measuring(Device& device, const MachineOptions& options)
      : device_(device),
        options_(options),
        machine_(facts(device, options)),
        cache_(options.cache_file),
        say_(options.progress ? options.progress : [](std::string_view) {}),
        base_(fmt::format("{} | {} cores | {} | {}", machine_.processor, machine_.cores, machine_.kernel,
                          SPILLWAY_VERSION)) {}

  Machine run() {
    machine_.kept = true;
    compute();
    machine_.model_disk = disk(drive_of(options_.model_path), false);
    machine_.spill_disk = disk(drive_of(options_.disk_folder), true);
    if (!machine_.kept) save();
    return std::move(machine_);
  }

 private:
  void compute() {
    const std::string key = fmt::format("{} | {} | {} threads", base_, machine_.device, machine_.threads);
    ComputeProfile known = options_.refresh ? ComputeProfile{} : cache_.compute(key).value_or(ComputeProfile{});
    // Measured over less than can be had now, reads may have come from a cache.
    const uint64_t set = measuring_set(device_, options_.most_bytes);
    if (known.working_set < set / 10 * 9) known = {};
    const bool attends = options_.heads.heads == 0 || known.attention.contains(options_.heads);
    const bool all = known.memory_read > 0 && attends &&
                     std::all_of(options_.types.begin(), options_.types.end(),
                                 [&](DType type) { return known.weights.contains(type); });
    const bool again = known.memory_read > 0 && doubtful(known.conditions, options_.most_others);
    if ((!all || again) && options_.measure) {
      begin(again);
      const ComputeWishes wishes{options_.types, options_.heads, options_.threads, options_.most_bytes,
                                 kComputeShare * options_.seconds};
      const OtherLoad others;
      ComputeProfile found = measure_compute(device_, wishes, again ? ComputeProfile{} : known, say_);
      found.conditions = {.others = others.share()};
      if (!again) found.conditions.others = std::max(found.conditions.others, known.conditions.others);
      known = again ? better_of(std::move(known), found) : std::move(found);
      say_conditions(known.conditions, options_.most_others, say_);
      cache_.put(key, known);
    }
    machine_.compute = std::move(known);
  }

  DiskProfile disk(const std::string& drive, bool writes) {
    if (!writes && !options_.model_path.empty() && drive.empty()) {
      throw Error(ErrorKind::model, "no such file: " + options_.model_path);
    }
    if (writes && !options_.disk_folder.empty() && drive.empty()) {
      throw Error(ErrorKind::io, "no such folder: " + options_.disk_folder + " (--disk-dir)");
    }
    if (drive.empty()) return {};
    const std::string key = fmt::format("{} | {}", base_, drive);
    // A drive measured a moment ago for its reads is not measured anew for them.
    const bool keep = !options_.refresh || drive == measured_drive_;
    DiskProfile known = keep ? cache_.disk(key).value_or(DiskProfile{}) : DiskProfile{};
    const bool again = drive != measured_drive_ && doubtful(known.conditions, options_.most_others);
    if (((writes ? known.write > 0 : known.read > 0) && !again) || !options_.measure) return known;
    begin(again);
    const double seconds = kDiskShare * options_.seconds;
    const auto write = [&] { return measure_writes(device_, options_.disk_folder, seconds); };
    const OtherLoad others;
    DiskProfile found = writes ? naming_disk_folder(write) : measure_reads(device_, options_.model_path, seconds);
    found.conditions = {.others = others.share()};
    if (again) {
      known = better_of(known, found);
    } else if (known.read > 0) {
      // Reads of the model's own file say more than reads of what was just written.
      known.write = found.write;
    } else {
      known = found;
    }
    say_conditions(known.conditions, options_.most_others, say_);
    if (writes && known.write == 0) {
      say_(fmt::format("{}: no room to measure how fast it is written", options_.disk_folder));
      return known;
    }
    say_(writes ? fmt::format("{}: written at {} ({})", options_.disk_folder, format_speed(known.write), found.method)
                : fmt::format("{}: read at {}, {:.0f} us for a small read ({})", options_.model_path,
                              format_speed(known.read), known.latency_s * 1e6, known.method));
    measured_drive_ = drive;
    cache_.put(key, known);
    return known;
  }

  void begin(bool again) {
    if (!std::exchange(machine_.kept, false)) return;
    say_(again ? "measuring this machine again, for others were computing: seconds while they still are"
               : "measuring this machine: about a second, once");
  }

  void save() {
    try {
      cache_.save();
    } catch (const Error& error) {
      say_(fmt::format("the measurements cannot be kept: {}", error.what()));
    }
  }

  Device& device_;
  const MachineOptions& options_;
  Machine machine_;
  MachineCache cache_;
  SayLine say_;
  std::string base_;  // of every key: another processor, kernel or version measures anew
  std::string measured_drive_;
};

}  // namespace

WeightSpeed Machine::weight_speed(DType type) const {
  const auto found = compute.weights.find(type);
  if (found != compute.weights.end()) return found->second;
  WeightSpeed slowest;
  for (const auto& [other, speed] : compute.weights) {
    if (slowest.decode_bytes == 0 || speed.decode_bytes < slowest.decode_bytes)
      slowest.decode_bytes = speed.decode_bytes;
    if (slowest.prefill_flops == 0 || speed.prefill_flops < slowest.prefill_flops)
      slowest.prefill_flops = speed.prefill_flops;
  }
  return slowest;
}

double Machine::attention_speed(const HeadShape& heads) const {
  const auto found = compute.attention.find(heads);
  return found == compute.attention.end() ? 0 : found->second;
}

Machine measure_machine(Device& device, const MachineOptions& options) { return Measuring(device, options).run(); }

nlohmann::json to_json(const Machine& machine) {
  return {{"processor", machine.processor},
          {"device", machine.device},
          {"kernel", machine.kernel},
          {"cores", machine.cores},
          {"threads", machine.threads},
          {"memory_total", machine.memory_total},
          {"memory_free", machine.memory_free},
          {"compute", to_json(machine.compute)},
          {"model_disk", to_json(machine.model_disk)},
          {"spill_disk", to_json(machine.spill_disk)},
          {"kept", machine.kept}};
}

}  // namespace spillway
