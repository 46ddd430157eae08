#include "runtime/free_disk.h"

#include <filesystem>

namespace spillway {

std::optional<uint64_t> free_disk_bytes(const std::string& directory) {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(directory, unknown);
  if (unknown || space.capacity == 0) return std::nullopt;
  return space.available;
}

}  // namespace spillway
