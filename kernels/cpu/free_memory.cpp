#include "kernels/cpu/free_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "kernels/cpu/control_groups.h"

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

// The number behind `key` in a file of "key value" lines.
std::optional<uint64_t> number_after(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::string_view view = line;
    if (view.substr(0, key.size()) == key && view.substr(key.size()).find_first_of(" \t") == 0) {
      return number_at_start(view.substr(key.size()));
    }
  }
  return std::nullopt;
}

// What one level leaves; nothing where it sets no limit.
std::optional<uint64_t> left_in(const fs::path& folder, const Group& group) {
  std::optional<uint64_t> limit;
  for (const char* name : group.limits) {
    const auto value = name != nullptr ? number_in_file(folder / name) : std::nullopt;
    if (value) limit = std::min(limit.value_or(UINT64_MAX), *value);
  }
  const auto usage = number_in_file(folder / group.usage);
  if (!limit || !usage) return std::nullopt;
  const uint64_t reclaimable = number_after(folder / "memory.stat", group.reclaimable).value_or(0);
  const uint64_t held = *usage - std::min(*usage, reclaimable);
  return *limit - std::min(*limit, held);
}

uint64_t left_by_groups(const fs::path& root) {
  uint64_t least = UINT64_MAX;
  visit_control_groups(root, "memory", [&](const fs::path& folder, int version) {
    least = std::min(least, left_in(folder, version == 1 ? kVersion1 : kVersion2).value_or(UINT64_MAX));
  });
  return least;
}

uint64_t left_by_machine(const fs::path& root) {
  const fs::path meminfo = root / "proc/meminfo";
  const auto available_kib = number_after(meminfo, "MemAvailable:");
  if (!available_kib) throw Error(ErrorKind::io, meminfo.string() + ": no line MemAvailable");
  return *available_kib * 1024;
}

}  // namespace

uint64_t free_memory_bytes(const fs::path& root) { return std::min(left_by_machine(root), left_by_groups(root)); }
bool free_memory_is_a_groups(const fs::path& root) { return left_by_groups(root) < left_by_machine(root); }

}  // namespace spillway
