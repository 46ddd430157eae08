// Opens the built CUDA module as the program does and looks at its table. With or without a driver and a GPU: what is
// there must be told in one line.
#include <cstdio>
#include <cstring>

#include "kernels/cuda_module.h"

namespace {

// Every entry after version and size is a function.
bool all_set(const SpillwayCudaTable& table) {
  void* entries[(sizeof table - offsetof(SpillwayCudaTable, device_count)) / sizeof(void*)];
  std::memcpy(entries, &table.device_count, sizeof entries);
  for (const void* entry : entries) {
    if (entry == nullptr) return false;
  }
  return true;
}

int fail(const char* what) {
  std::printf("cuda_module_check: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail("usage: cuda_module_check MODULE");
  const spillway::CudaModule module(argv[1]);
  std::printf("%s\n", module.report().c_str());
  if (module.table() == nullptr) return fail("the module has no usable table");
  if (!all_set(*module.table())) return fail("an entry of the table is null");
  if (module.report().empty() || module.report().find('\n') != std::string::npos)
    return fail("the report is not one line");
  if (module.devices() == 0) {
    void* block = nullptr;
    if (module.table()->reserve(4096, &block) == nullptr) return fail("memory was reserved without a device");
    return 0;
  }
  if (module.table()->use_device(0) != nullptr) return fail("device 0 cannot be used");
  uint64_t bytes = 0;
  if (module.table()->free_bytes(&bytes) != nullptr || bytes == 0) return fail("device 0 has no memory");
  return 0;
}
