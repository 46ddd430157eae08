// How much memory this process could still take: what the machine has, and what its control groups leave.
#pragma once

#include <cstdint>
#include <filesystem>

namespace spillway {

// MemAvailable, capped at every level of our memory control group (v1 or v2, up to the root) by limit - usage, where
// page cache that the kernel would give back first (inactive file pages) does not count as usage. Swap is not counted.
// `root` holds proc and sys. Throws Error(io) when /proc/meminfo does not say.
uint64_t free_memory_bytes(const std::filesystem::path& root = "/");

// Whether it is a control group that sets this limit, and not the machine as a whole.
bool free_memory_is_a_groups(const std::filesystem::path& root = "/");

}  // namespace spillway
