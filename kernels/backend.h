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

struct CudaOptions {
  std::string module;  // file of the CUDA module; empty: where it is installed (kernels/cuda_module.h)
  int device = 0;
  bool graphs = true;  // the layers of decode steps are replayed as CUDA graphs
};

// Null where module, driver or GPU are missing, and then `report` is one line that says which. Throws Error(usage) for
// a device that is not among those that are there, Error(io) for one that cannot be used.
std::unique_ptr<Device> make_cuda_device(const CudaOptions& options, std::string* report);
// A CPU device with workers of its own.
std::unique_ptr<Device> make_cpu_device(const CpuOptions& options);
// The specification: double-precision plain loops on the calling thread's stream. Slow on purpose.
std::unique_ptr<Device> make_reference_device();

}  // namespace spillway
