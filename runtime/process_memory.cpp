#include "runtime/process_memory.h"

#include <fstream>
#include <string>

namespace spillway {

ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto kib = [&] { return 1024 * std::stoull(line.substr(line.find_first_of("0123456789"))); };
    if (line.starts_with("VmRSS:")) memory.resident = kib();
    if (line.starts_with("RssAnon:")) memory.own = kib();
    if (line.starts_with("VmHWM:")) memory.peak = kib();
  }
  return memory;
}

}  // namespace spillway
