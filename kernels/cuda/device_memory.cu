// By NVML, which comes with the driver; opened, not linked, for it may be missing (containers).
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "kernels/cuda/device_memory.cuh"

namespace spillway::cuda {
namespace {

// Of NVML's interface (nvml.h), which keeps these for ever.
struct NvmlMemory {
  unsigned long long total, free, used;
};
using NvmlDevice = void*;

struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*find)(const char* bus, NvmlDevice* device) = nullptr;
  int (*memory)(NvmlDevice device, NvmlMemory* memory) = nullptr;

  explicit Nvml(void* library) {
    load(library, "nvmlInit_v2", init);
    load(library, "nvmlShutdown", shutdown);
    load(library, "nvmlDeviceGetHandleByPciBusId_v2", find);
    load(library, "nvmlDeviceGetMemoryInfo", memory);
  }
  bool whole() const { return init && shutdown && find && memory; }

 private:
  template <typename Function>
  static void load(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

}  // namespace

bool free_without_context(int device, uint64_t* bytes) {
  char bus[32];
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess) return false;
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return false;
  const Nvml nvml(library);
  bool found = false;
  if (nvml.whole() && nvml.init() == 0) {
    NvmlDevice handle = nullptr;
    NvmlMemory memory = {};
    found = nvml.find(bus, &handle) == 0 && nvml.memory(handle, &memory) == 0;
    *bytes = memory.free;
    nvml.shutdown();
  }
  dlclose(library);
  return found;
}

}  // namespace spillway::cuda
