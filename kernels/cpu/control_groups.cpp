#include "kernels/cpu/control_groups.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>
#include <system_error>

namespace spillway {
namespace {

namespace fs = std::filesystem;

// Every level of `path` below `mount`, and the mount itself: inside a container the path may be the host's and lead
// nowhere here, and the mount is then our group.
void visit_up_to_root(const fs::path& mount, const fs::path& path, int version,
                      const std::function<void(const fs::path&, int)>& visit) {
  for (fs::path below = path.relative_path();; below = below.parent_path()) {
    visit(below.empty() ? mount : mount / below, version);
    if (below.empty()) return;
  }
}

}  // namespace

void visit_control_groups(const fs::path& root, std::string_view controller,
                          const std::function<void(const fs::path&, int)>& visit) {
  const fs::path mounts = root / "sys/fs/cgroup";
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string named = line.substr(first + 1, second - first - 1);
    const fs::path path = line.substr(second + 1);
    if (named.empty()) {
      visit_up_to_root(mounts, path, 2, visit);
      visit_up_to_root(mounts / "unified", path, 2, visit);
    } else if (("," + named + ",").find("," + std::string(controller) + ",") != std::string::npos) {
      // Mounted under its own name; where controllers share a mount, that is a link to it.
      visit_up_to_root(mounts / controller, path, 1, visit);
    }
  }
}

std::optional<uint64_t> number_at_start(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::optional<uint64_t> number_in_file(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  return number_at_start(line);
}

std::optional<double> processor_quota(const fs::path& root) {
  std::optional<double> least;
  visit_control_groups(root, "cpu", [&](const fs::path& folder, int version) {
    std::optional<uint64_t> quota, period;
    if (version == 2) {  // "quota period", the quota perhaps "max"
      std::ifstream in(folder / "cpu.max");
      std::string first, second;
      if (in >> first >> second) {
        quota = number_at_start(first);
        period = number_at_start(second);
      }
    } else {  // no limit is -1, which is no number here
      quota = number_in_file(folder / "cpu.cfs_quota_us");
      period = number_in_file(folder / "cpu.cfs_period_us");
    }
    if (!quota || !period || *quota == 0 || *period == 0) return;
    const double share = static_cast<double>(*quota) / static_cast<double>(*period);
    least = std::min(least.value_or(share), share);
  });
  return least;
}

}  // namespace spillway
