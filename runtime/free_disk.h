// How much a folder's drive could still take.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace spillway {

// Bytes free to this user in `directory`; nothing where the file system does not say (some network ones report no size
// at all), or there is no such folder.
std::optional<uint64_t> free_disk_bytes(const std::string& directory);

}  // namespace spillway
