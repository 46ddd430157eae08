#include "kernels/backend.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda_device.h"
#include "kernels/cuda_module.h"

namespace spillway {
namespace {

constexpr int kMaxThreads = 4096;

const char* isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::best:
      return "best";
    case CpuIsa::scalar:
      return "scalar";
    case CpuIsa::avx2:
      return "AVX2";
    case CpuIsa::avx512:
      return "AVX-512";
  }
  return "unknown";
}

}  // namespace

std::unique_ptr<Device> make_cuda_device(const CudaOptions& options, std::string* report) {
  const auto module = std::make_shared<const CudaModule>(options.module);
  *report = module->report();
  if (module->devices() == 0) return nullptr;
  if (options.device < 0 || options.device >= module->devices()) {
    throw Error(ErrorKind::usage, fmt::format("cuda:{} is not there: {}", options.device, *report));
  }
  return std::make_unique<CudaDevice>(module, *module->table(), options.device, options.graphs);
}

std::unique_ptr<Device> make_cpu_device(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw Error(ErrorKind::usage, fmt::format("threads: {} is outside 0 to {}", options.threads, kMaxThreads));
  }
  const CpuIsa widest = widest_isa();
  const CpuIsa isa = options.isa == CpuIsa::best ? widest : options.isa;
  if (isa > widest) {
    throw Error(ErrorKind::usage, fmt::format("CPU kernels: {} was asked for, this machine runs {} at most",
                                              isa_name(isa), isa_name(widest)));
  }
  auto team = std::make_unique<Team>(options.threads);
  auto ops = make_cpu_ops(*team, isa);
  const int threads = team->workers();
  std::string name =
      fmt::format("{}, {} kernels, {} thread{}", processor_name(), isa_name(isa), threads, threads == 1 ? "" : "s");
  return std::make_unique<CpuDevice>(std::move(name), std::move(team), std::move(ops));
}

}  // namespace spillway
