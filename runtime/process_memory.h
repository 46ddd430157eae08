// The process's own memory, as the kernel counts it (/proc/self/status).
#pragma once

#include <cstdint>

namespace spillway {

struct ProcessMemory {
  uint64_t resident = 0;  // VmRSS, bytes
  uint64_t own = 0;       // RssAnon: not counting what is shared with files, which the kernel may take back
  uint64_t peak = 0;      // VmHWM, bytes
};

// A process is never quite of the same size twice: 1.4 MiB apart were seen, where one had measured the machine and the
// other found that kept.
inline constexpr uint64_t kProcessVaries = 2 << 20;

ProcessMemory process_memory();

// The resident set that a plan counts with, where an earlier one of the same run counted with `planned` (0: there was
// none): the same, while the process has not grown by more than it varies. That much the margin beside it covers.
inline uint64_t process_to_plan(uint64_t planned, uint64_t resident) {
  return planned > 0 && resident <= planned + kProcessVaries ? planned : resident;
}

}  // namespace spillway
