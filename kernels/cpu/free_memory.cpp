#include "kernels/cpu/free_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "kernels/check.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

// The names of one version of control groups.
struct Group {
  const char* limits[2];  // enforced ones; the second may be null
  const char* usage;
  const char* reclaimable;  // a line of memory.stat, descendants included
};
constexpr Group kVersion1 = {{"memory.limit_in_bytes", nullptr}, "memory.usage_in_bytes", "total_inactive_file"};
constexpr Group kVersion2 = {{"memory.max", "memory.high"}, "memory.current", "inactive_file"};

// The number at the start of the text; nothing for "max", an empty file, or what does not fit 64 bits.
std::optional<uint64_t> number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::optional<uint64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  return number(line);
}

// The number behind `key` in a file of "key value" lines.
std::optional<uint64_t> number_after(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::string_view view = line;
    if (view.substr(0, key.size()) == key && view.substr(key.size()).find_first_of(" \t") == 0) {
      return number(view.substr(key.size()));
    }
  }
  return std::nullopt;
}

// What one level leaves; nothing where it sets no limit.
std::optional<uint64_t> left_in(const fs::path& folder, const Group& group) {
  std::optional<uint64_t> limit;
  for (const char* name : group.limits) {
    const auto value = name != nullptr ? number_in(folder / name) : std::nullopt;
    if (value) limit = std::min(limit.value_or(UINT64_MAX), *value);
  }
  const auto usage = number_in(folder / group.usage);
  if (!limit || !usage) return std::nullopt;
  const uint64_t reclaimable = number_after(folder / "memory.stat", group.reclaimable).value_or(0);
  const uint64_t held = *usage - std::min(*usage, reclaimable);
  return *limit - std::min(*limit, held);
}

// The least of what the levels of `path` below `mount` leave. Inside a container the path may be the host's and lead
// nowhere here; the mount itself is then our group, and it is always looked at.
uint64_t left_up_to_root(const fs::path& mount, const fs::path& path, const Group& group) {
  uint64_t least = UINT64_MAX;
  for (fs::path below = path.relative_path();; below = below.parent_path()) {
    least = std::min(least, left_in(mount / below, group).value_or(UINT64_MAX));
    if (below.empty()) return least;
  }
}

uint64_t left_by_groups(const fs::path& root) {
  uint64_t least = UINT64_MAX;
  const fs::path mounts = root / "sys/fs/cgroup";
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path path = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, left_up_to_root(mounts, path, kVersion2));
      least = std::min(least, left_up_to_root(mounts / "unified", path, kVersion2));
    } else if (controllers.find(",memory,") != std::string::npos) {
      least = std::min(least, left_up_to_root(mounts / "memory", path, kVersion1));
    }
  }
  return least;
}

}  // namespace

uint64_t free_memory_bytes(const fs::path& root) {
  const fs::path meminfo = root / "proc/meminfo";
  const auto available_kib = number_after(meminfo, "MemAvailable:");
  if (!available_kib) throw Error(ErrorKind::io, meminfo.string() + ": no line MemAvailable");
  return std::min(*available_kib * 1024, left_by_groups(root));
}

}  // namespace spillway
