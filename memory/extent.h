// Extent: bytes in a file. A tensor is an extent of the user's own file; nothing is converted, no second copy is made.
#pragma once

#include <cstdint>

namespace spillway {

// Bytes [offset, offset + bytes) of file number `file` of a Checkpoint (or of a DiskQueue's registered files).
struct Extent {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// O_DIRECT wants memory, offset and length aligned; 4096 satisfies every drive we know.
inline constexpr uint64_t kDiskAlign = 4096;
constexpr uint64_t align_down(uint64_t value, uint64_t to) { return value / to * to; }
constexpr uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace spillway
