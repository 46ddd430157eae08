#include "tests/support/backends.h"

#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda_device.h"
#include "kernels/cuda_module.h"

namespace spillway {
namespace {

Backend cpu(const char* name, CpuIsa isa, bool fused) {
  Backend backend;
  backend.name = name;
  backend.make = [isa](int threads) { return make_cpu_device({.threads = threads, .isa = isa}); };
  backend.fused = fused;
  return backend;
}

Backend cuda(const char* name, std::shared_ptr<const void> owner, const SpillwayCudaTable& table) {
  Backend backend;
  backend.name = name;
  backend.make = [owner = std::move(owner), &table](int) { return std::make_unique<CudaDevice>(owner, table, 0); };
  backend.decodes_as_prefill = false;
  backend.attends_in_halves = true;
  return backend;
}

}  // namespace

std::vector<Backend> backends() {
  std::vector<Backend> list = {cpu("cpu_scalar", CpuIsa::scalar, false)};
  if (widest_isa() >= CpuIsa::avx2) list.push_back(cpu("cpu_avx2", CpuIsa::avx2, true));
  if (widest_isa() >= CpuIsa::avx512) list.push_back(cpu("cpu_avx512", CpuIsa::avx512, true));
  list.push_back(cuda("cuda_emulated", nullptr, *spillway_cuda_table()));
  list.back().emulated = true;
  const auto module = std::make_shared<const CudaModule>();
  if (module->devices() > 0) list.push_back(cuda("cuda", module, *module->table()));
  return list;
}

}  // namespace spillway
