#include <utility>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/reference/reference_ops.h"

namespace spillway {

std::unique_ptr<Device> make_reference_device() {
  return std::make_unique<CpuDevice>(processor_name() + ", reference kernels (double), 1 thread", nullptr,
                                     make_reference_ops());
}

}  // namespace spillway
