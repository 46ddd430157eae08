// Small libraries that pass for the CUDA module, one for each definition that CMakeLists.txt gives.
#include "kernels/cuda/module.h"

#include <cstdio>

#ifdef FOREIGN
extern "C" int something_else() { return 0; }
#else

namespace {

spillway::CudaProblem device_count(int32_t* count) {
#ifdef NO_DRIVER
  *count = 0;
  return "the driver's own words";
#else
  *count = 2;
  return nullptr;
#endif
}

spillway::CudaProblem device_info(int32_t device, spillway::CudaDeviceInfo* info) {
  *info = {.name = "", .major = 8, .minor = 9, .multiprocessors = 1, .total_bytes = uint64_t{8} << 30};
  std::snprintf(info->name, sizeof info->name, "device %d", device);
  return nullptr;
}

bool profiled() { return false; }

}  // namespace

const SpillwayCudaTable* spillway_cuda_table() {
  static SpillwayCudaTable table = {};
#ifdef OTHER_VERSION
  table.version = ~0u;
#else
  table.version = spillway::kCudaTableVersion;
#endif
  table.bytes = sizeof table;
  table.device_count = device_count;
  table.device_info = device_info;
  table.profiled = profiled;
  return &table;
}

#endif
