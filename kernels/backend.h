// The one place that hands out devices. No other file asks what was built or what the machine has.
#pragma once

#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"

namespace spillway {

// Instruction sets of the CPU kernels; `best` takes the widest that this machine runs.
enum class CpuIsa : uint8_t { best, scalar, avx2, avx512 };

struct CpuOptions {
  int threads = 0;            // compute workers, pinned one to a core; 0: one for each physical core we may use
  CpuIsa isa = CpuIsa::best;  // tests pin it; asking for what the machine lacks is an Error(usage)
};

// A CPU device with workers of its own.
std::unique_ptr<Device> make_cpu_device(const CpuOptions& options);
// The specification: double-precision plain loops on the calling thread's stream. Slow on purpose.
std::unique_ptr<Device> make_reference_device();

}  // namespace spillway
