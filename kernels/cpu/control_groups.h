// The control groups (cgroups, v1 or v2) that this process is in, as folders to read limits from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

namespace spillway {

// Calls `visit` for the group of `controller` ("memory", "cpu") that this process is in and for each above it, up to
// the root; `version` is 1 or 2. `root` holds proc and sys.
void visit_control_groups(const std::filesystem::path& root, std::string_view controller,
                          const std::function<void(const std::filesystem::path& folder, int version)>& visit);

// The number at the start of the text; nothing for "max", for an empty text, or for what does not fit 64 bits.
std::optional<uint64_t> number_at_start(std::string_view text);
// The same of a file's first line; nothing where it cannot be read.
std::optional<uint64_t> number_in_file(const std::filesystem::path& file);

// Processors' worth of time that a quota leaves, the least over all levels (cpu.max; v1: cpu.cfs_quota_us over
// cpu.cfs_period_us); nothing where there is none.
std::optional<double> processor_quota(const std::filesystem::path& root = "/");

}  // namespace spillway
