// Doctor's findings on drives and on the ways to them.
#include <fmt/format.h>

#include <memory>

#include "kernels/cpu/control_groups.h"
#include "memory/disk_queue.h"
#include "memory/extent.h"
#include "memory/format_bytes.h"
#include "runtime/doctor.h"
#include "runtime/measure.h"

namespace spillway {
namespace {

constexpr double kSlowRead = 5e8;  // bytes a second: a SATA drive's; NVMe gives several times that
constexpr double kSlowWrite = 2e8;
constexpr double kSeconds = 0.3;  // for each measurement
constexpr uint64_t kProbeBytes = 1 << 20;

std::string mend_uring(const std::filesystem::path& root) {
  if (number_in_file(root / "proc/sys/kernel/io_uring_disabled").value_or(0) != 0) {
    return "the kernel forbids io_uring: sysctl kernel.io_uring_disabled=0";
  }
  return "io_uring needs Linux 5.10 or newer, and in a container a seccomp profile that allows io_uring_setup";
}

// How the disk queue would read this file.
Finding way_to(Device& device, const File& file, const std::filesystem::path& root) {
  std::byte* memory = device.reserve_host(kProbeBytes);
  Finding finding{.name = "io_uring"};
  {
    const auto queue = DiskQueue::open({&file}, {std::span(memory, kProbeBytes)}, {});
    const std::string why = queue->why();
    finding.found = kDiskMethodNames[static_cast<int>(queue->method())] + (why.empty() ? "" : " (" + why + ")");
    if (queue->method() == DiskMethod::threads) {
      finding.health = Health::slow;
      finding.mend = mend_uring(root);
    } else if (queue->method() == DiskMethod::uring) {
      finding.health = Health::slow;
      finding.mend = "memory is not registered with it: see locked memory";
    }
  }
  device.release_host(memory, kProbeBytes);
  return finding;
}

Finding direct(const std::string& what, const File& file) {
  Finding finding{.name = "O_DIRECT", .found = what + ": reads and writes pass the page cache by"};
  if (file.direct_descriptor() >= 0) return finding;
  finding.health = Health::slow;
  finding.found = what + ": the file system refuses it, so that what streams also fills the page cache";
  finding.mend = "keep the file on ext4, XFS or btrfs rather than on this file system";
  return finding;
}

// A part that the drive may fail is a finding, too.
template <typename Part>
void attempt(std::vector<Finding>& findings, const std::string& name, const std::string& mend, const Part& part) {
  try {
    part();
  } catch (const Error& error) {
    findings.push_back({name, Health::broken, error.what(), mend});
  }
}

}  // namespace

Finding judge_reads(const std::string& what, const DiskProfile& profile) {
  Finding finding{.name = "reads",
                  .found = fmt::format("{}: {}, {:.0f} us for a small one", what, format_speed(profile.read),
                                       profile.latency_s * 1e6)};
  if (profile.through_cache) {
    finding.health = Health::slow;
    finding.found += " (through the page cache: no speed of the drive)";
    finding.mend = "see O_DIRECT";
  } else if (profile.read < kSlowRead) {
    finding.health = Health::slow;
    finding.mend = "what streams from here binds a run: keep the model on an NVMe drive of this machine";
  }
  return finding;
}

Finding judge_writes(const std::string& folder, const DiskProfile& profile) {
  Finding finding{.name = "writes", .found = fmt::format("{}: {}", folder, format_speed(profile.write))};
  if (profile.write == 0) {
    finding.health = Health::slow;
    finding.found = folder + ": too little room to measure";
    finding.mend = "KV cannot be spilled here: make room, or name another folder (--disk-dir)";
  } else if (!profile.through_cache && profile.write < kSlowWrite) {
    finding.health = Health::slow;
    finding.mend = "spilled KV is written here: name a folder on an NVMe drive (--disk-dir)";
  }
  return finding;
}

std::vector<Finding> examine_drives(Device& device, const std::string& model_file, const std::string& spill_folder,
                                    const std::filesystem::path& root) {
  std::vector<Finding> findings;
  if (!model_file.empty()) {
    attempt(findings, "model's drive", "the model must be readable: see its rights, and the kernel's log", [&] {
      const File file = File::open_read(model_file);
      findings.push_back(way_to(device, file, root));
      findings.push_back(direct(model_file, file));
      findings.push_back(judge_reads(model_file, measure_reads(device, model_file, kSeconds)));
    });
  }
  attempt(findings, "spill folder", "name a folder that can be written (--disk-dir)", [&] {
    const File file = File::make_unnamed(spill_folder, kProbeBytes);
    if (model_file.empty()) findings.push_back(way_to(device, file, root));
    findings.push_back(direct(spill_folder, file));
    findings.push_back(judge_writes(spill_folder, measure_writes(device, spill_folder, kSeconds)));
  });
  return findings;
}

}  // namespace spillway
