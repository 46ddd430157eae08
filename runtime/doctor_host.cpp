// Doctor's findings on the processor, its memory, and what limits them.
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "kernels/cpu/control_groups.h"
#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "runtime/doctor.h"
#include "runtime/machine.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLeastFree = uint64_t{256} << 20;     // of memory, for any run
constexpr uint64_t kNoLimit = uint64_t{1} << 60;         // what version 1 of control groups says for none
constexpr uint64_t kLockedForRings = uint64_t{1} << 30;  // rings and staging of a large model
constexpr double kSlowMemory = 8e9;                      // bytes a second; one channel of DDR4 gives twice that
constexpr int kMayLock = 14;                             // CAP_IPC_LOCK (capabilities(7))

int allowed_units() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                     : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

int memory_nodes(const fs::path& root) {
  std::error_code error;
  int nodes = 0;
  for (const auto& entry : fs::directory_iterator(root / "sys/devices/system/node", error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("node") && name.find_first_not_of("0123456789", 4) == std::string::npos) ++nodes;
  }
  return std::max(nodes, 1);
}

std::optional<uint64_t> memory_limit(const fs::path& root) {
  uint64_t least = kNoLimit;
  visit_control_groups(root, "memory", [&](const fs::path& folder, int version) {
    const char* const names[] = {version == 1 ? "memory.limit_in_bytes" : "memory.max",
                                 version == 1 ? "memory.limit_in_bytes" : "memory.high"};
    for (const char* name : names) least = std::min(least, number_in_file(folder / name).value_or(kNoLimit));
  });
  return least < kNoLimit ? std::optional(least) : std::nullopt;
}

// Of the effective capabilities of this process.
bool may_lock_all(const fs::path& root) {
  std::ifstream status(root / "proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("CapEff:")) return (std::strtoull(line.c_str() + 7, nullptr, 16) >> kMayLock & 1) != 0;
  }
  return false;
}

Finding processor(const Device& device, const Machine& machine) {
  Finding finding{.name = "processor", .found = device.name()};
  if (device.name().find("scalar") == std::string::npos) return finding;
  finding.health = Health::slow;
  finding.found += fmt::format(", Linux {}", machine.kernel);
  finding.mend = "no AVX2 is offered here: where the processor has it, the virtual machine's CPU model hides it";
  return finding;
}

Finding topology(const Machine& machine, const fs::path& root) {
  const int nodes = memory_nodes(root);
  Finding finding{.name = "topology",
                  .found = fmt::format("{} core{} and {} processors to use, {} memory node{}", machine.cores,
                                       machine.cores == 1 ? "" : "s", allowed_units(), nodes, nodes == 1 ? "" : "s")};
  if (nodes > 1) finding.found += " (numactl --cpunodebind=N --membind=N keeps a run on the GPU's node)";
  return finding;
}

Finding memory(const Machine& machine) {
  const double speed = machine.compute.memory_read;
  Finding finding{.name = "memory",
                  .found = fmt::format("{} free of {}, read at {}", format_bytes(machine.memory_free),
                                       format_bytes(machine.memory_total), format_speed(speed))};
  if (machine.memory_free < kLeastFree) {
    finding.health = Health::broken;
    finding.mend = fmt::format("a run needs at least {}: end what fills the memory, or raise the group's limit",
                               format_bytes(kLeastFree));
  } else if (speed < kSlowMemory) {
    finding.health = Health::slow;
    finding.mend = "this binds what computes on the CPU: fill all memory channels; or other work was in the way";
  }
  return finding;
}

}  // namespace

Finding judge_locked_memory(std::optional<uint64_t> limit, bool exempt) {
  Finding finding{.name = "locked memory", .found = limit ? format_bytes(*limit) + " at most" : "no limit"};
  if (exempt && limit) finding.found += ", which does not bind this process (CAP_IPC_LOCK)";
  if (exempt || !limit || *limit >= kLockedForRings) return finding;
  finding.health = Health::slow;
  finding.mend =
      "rings larger than that are not registered with io_uring: ulimit -l unlimited, memlock in "
      "/etc/security/limits.conf, LimitMEMLOCK=infinity of a service, --ulimit memlock=-1 of a container";
  return finding;
}

Finding judge_groups(std::optional<uint64_t> memory_limit, uint64_t memory_free, std::optional<double> quota,
                     int units) {
  Finding finding{.name = "control group"};
  finding.found =
      memory_limit ? fmt::format("memory up to {}, {} are free", format_bytes(*memory_limit), format_bytes(memory_free))
                   : "memory without limit";
  finding.found += quota ? fmt::format("; time of {:.3g} processors", *quota) : "; processors without quota";
  if (quota && *quota < units) {
    finding.health = Health::slow;
    finding.mend = fmt::format(
        "{} processors may be used, but the quota pays for {:.3g} (cpu.max; --cpus of a container)", units, *quota);
  }
  return finding;
}

std::vector<Finding> examine_host(Device& device, const fs::path& root) {
  MachineOptions options;
  options.seconds = 0.8;
  const Machine machine = measure_machine(device, options);
  rlimit limit{};
  std::optional<uint64_t> locked;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) locked = limit.rlim_cur;
  return {processor(device, machine), topology(machine, root), memory(machine),
          judge_groups(memory_limit(root), free_memory_bytes(root), processor_quota(root), allowed_units()),
          judge_locked_memory(locked, may_lock_all(root))};
}

}  // namespace spillway
