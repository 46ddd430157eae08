// The process's own memory, as the kernel counts it (/proc/self/status).
#pragma once

#include <cstdint>

namespace spillway {

struct ProcessMemory {
  uint64_t resident = 0;  // VmRSS, bytes
  uint64_t own = 0;       // RssAnon: not counting what is shared with files, which the kernel may take back
  uint64_t peak = 0;      // VmHWM, bytes
};

ProcessMemory process_memory();

}  // namespace spillway
