#include "tests/support/backends.h"

#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"

namespace spillway {
namespace {

Backend cpu(const char* name, CpuIsa isa, bool fused) {
  Backend backend;
  backend.name = name;
  backend.make = [isa](int threads) { return make_cpu_device({.threads = threads, .isa = isa}); };
  backend.fused = fused;
  return backend;
}

}  // namespace

std::vector<Backend> backends() {
  std::vector<Backend> list = {cpu("cpu_scalar", CpuIsa::scalar, false)};
  if (widest_isa() >= CpuIsa::avx2) list.push_back(cpu("cpu_avx2", CpuIsa::avx2, true));
  if (widest_isa() >= CpuIsa::avx512) list.push_back(cpu("cpu_avx512", CpuIsa::avx512, true));
  return list;
}

}  // namespace spillway
