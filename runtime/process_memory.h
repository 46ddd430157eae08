// The process's own memory, as the kernel counts it (/proc/self/status).
#pragma once

#include <cstdint>

namespace spillway {

struct ProcessMemory {
  uint64_t resident = 0;  // VmRSS, bytes
  uint64_t own = 0;       // RssAnon: not counting what is shared with files, which the kernel may take back
  uint64_t peak = 0;      // VmHWM, bytes
};

// A process is never quite of the same size twice: 1.3 MiB apart were seen, where one had measured the machine and the
// other found that kept.
inline constexpr uint64_t kProcessVaries = 1536 << 10;

ProcessMemory process_memory();

}  // namespace spillway
