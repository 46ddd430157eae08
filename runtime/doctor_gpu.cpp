// Doctor's findings on the GPU: card, driver, module, link, pinned memory.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

#include "kernels/cpu/control_groups.h"
#include "kernels/cuda_module.h"
#include "memory/format_bytes.h"
#include "runtime/doctor.h"
#include "runtime/machine.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

// The oldest driver that runs programs of CUDA 12 (CUDA Compatibility, table of minor version compatibility).
constexpr int kLeastDriver = 525;
constexpr double kFairShare = 0.6;                      // of what the link's encoding leaves
constexpr uint64_t kPinnedBytes = uint64_t{256} << 20;  // tried

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

int major_of(const std::string& version) {
  int number = 0;
  std::from_chars(version.data(), version.data() + version.size(), number);
  return number;
}

Finding measured_link(const Machine& machine, const std::vector<PciCard>& cards) {
  const double down = machine.compute.host_to_device, up = machine.compute.device_to_host;
  Finding finding{.name = "link",
                  .found = fmt::format("{} to the GPU, {} from it", format_speed(down), format_speed(up))};
  // Which of several cards this is, is not known here.
  const double full = cards.size() == 1 ? cards.front().bytes_per_second() : 0;
  if (full == 0) return finding;
  finding.found += fmt::format(", of {} that the slot gives", format_speed(full));
  if (down >= kFairShare * full) return finding;
  finding.health = Health::slow;
  finding.mend = "run on the GPU's memory node (numactl), see to pinned memory, and look for other traffic on the link";
  return finding;
}

Finding pinned_memory(Device& device) {
  std::byte* block = device.reserve_host(kPinnedBytes);
  const std::string report = device.host_memory_report();
  device.release_host(block, kPinnedBytes);
  if (report.empty()) return {"pinned memory", Health::ok, format_bytes(kPinnedBytes) + " were pinned"};
  return {"pinned memory", Health::slow, report, "raise the limit of locked memory (ulimit -l), or free host memory"};
}

}  // namespace

double PciCard::bytes_per_second() const {
  const double encoding = most_gt >= 8 ? 128.0 / 130.0 : 0.8;  // PCIe 3 and later; before
  return width * most_gt * 1e9 * encoding / 8;
}

std::vector<PciCard> nvidia_cards(const fs::path& root) {
  std::vector<PciCard> cards;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "sys/bus/pci/devices", error)) {
    const fs::path& folder = entry.path();
    if (first_line(folder / "vendor") != "0x10de" || !first_line(folder / "class").starts_with("0x03")) continue;
    PciCard card{.address = folder.filename()};
    card.width = static_cast<int>(number_in_file(folder / "current_link_width").value_or(0));
    card.most_width = static_cast<int>(number_in_file(folder / "max_link_width").value_or(0));
    std::istringstream(first_line(folder / "max_link_speed")) >> card.most_gt;
    card.node = static_cast<int>(number_in_file(folder / "numa_node").value_or(-1));
    // A slot that the kernel does not know is described by impossible numbers.
    if (card.width > 32 || card.most_width > 32) card.width = card.most_width = 0;
    cards.push_back(card);
  }
  std::sort(cards.begin(), cards.end(), [](const PciCard& a, const PciCard& b) { return a.address < b.address; });
  return cards;
}

std::string nvidia_driver(const fs::path& root) {
  std::istringstream words(first_line(root / "proc/driver/nvidia/version"));
  for (std::string word; words >> word;) {
    const bool number = word.find_first_not_of("0123456789.") == std::string::npos;
    if (number && word.find('.') != std::string::npos && word.front() != '.') return word;
  }
  return "";
}

Finding judge_missing_gpu(const std::vector<PciCard>& cards, const std::string& driver, bool module_found,
                          const std::string& report) {
  if (cards.empty() && driver.empty()) {
    return {"GPU", Health::ok, "no NVIDIA GPU in this machine: the CPU computes"};
  }
  Finding finding{"GPU", Health::broken, report};
  if (driver.empty()) {
    finding.found = fmt::format("an NVIDIA card at {}, but no driver", cards.front().address);
    finding.mend =
        "install NVIDIA's driver (Debian: nvidia-driver; Ubuntu: ubuntu-drivers install); in a container, "
        "start it with --gpus all";
  } else if (!module_found) {
    finding.mend = "build the CUDA module (SPILLWAY_CUDA=on scripts/test.sh), or name it (--cuda-module FILE)";
  } else if (major_of(driver) < kLeastDriver) {
    finding.mend =
        fmt::format("driver {} is older than {}, which CUDA 12 needs: install a newer one", driver, kLeastDriver);
  } else {
    finding.mend =
        "nvidia-smi shows what the driver sees; CUDA_VISIBLE_DEVICES may hide devices, and a container "
        "needs --gpus all";
  }
  return finding;
}

Finding judge_link(const PciCard& card) {
  Finding finding{
      .name = "slot",
      .found = fmt::format("{}: {} of {} lanes, {:g} GT/s", card.address, card.width, card.most_width, card.most_gt)};
  if (card.node >= 0) finding.found += fmt::format(", memory node {}", card.node);
  if (card.width == 0 || card.width >= card.most_width) return finding;
  finding.health = Health::slow;
  finding.mend = "the card has fewer lanes than it could use: another slot, its firmware setting, or a better riser";
  return finding;
}

std::vector<Finding> examine_gpu(const CudaOptions& options, const fs::path& root) {
  std::vector<Finding> findings;
  const std::vector<PciCard> cards = nvidia_cards(root);
  const std::string driver = nvidia_driver(root);
  std::string report;
  std::unique_ptr<Device> device;
  try {
    device = make_cuda_device(options, &report);
  } catch (const Error& error) {
    report = error.what();
  }
  if (device == nullptr) {
    findings.push_back(judge_missing_gpu(cards, driver, CudaModule(options.module).table() != nullptr, report));
    return findings;
  }
  findings.push_back({"GPU", Health::ok, report + (device->emulated() ? " (emulated on the CPU)" : "")});
  if (!driver.empty()) findings.push_back({"driver", Health::ok, driver});
  for (const PciCard& card : cards) {
    if (card.width > 0) findings.push_back(judge_link(card));
  }
  try {
    findings.push_back(pinned_memory(*device));
    if (!device->emulated()) {
      MachineOptions wanted;
      wanted.seconds = 0.8;
      findings.push_back(measured_link(measure_machine(*device, wanted), cards));
    }
  } catch (const Error& error) {
    findings.push_back({"GPU's work", Health::broken, error.what(), "nvidia-smi and the kernel's log (Xid) say more"});
  }
  return findings;
}

}  // namespace spillway
