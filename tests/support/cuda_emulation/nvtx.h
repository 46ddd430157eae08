// A stand-in for the tool that kernels/cuda/nvtx.cu speaks to: keeps what it is shown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::emulation {

struct ShownRange {
  std::vector<std::string> path;  // from the outermost range of its thread that was open to this one
  uint64_t bytes = 0;
};

struct Shown {
  std::vector<ShownRange> ranges;    // in the order in which they began
  std::vector<std::string> streams;  // names, in the order in which they were given
  int open = 0;                      // ranges that have not ended
};

// From now on the module says that it is profiled (true) or not; what was kept is forgotten.
void attach_tool(bool attached);
Shown shown();

}  // namespace spillway::emulation
