// What the programs here share: what is thrown becomes one line on stderr and an exit code (kernels/check.h).
#pragma once

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"

namespace spillway {

inline int run_tool(const char* name, int (*tool)(int argc, char** argv), int argc, char** argv) {
  try {
    return tool(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return static_cast<int>(ErrorKind::model);
  }
}

// cpu, cuda or cuda:N. The module is SPILLWAY_CUDA_MODULE, else where it is installed.
inline std::unique_ptr<Device> device_named(const std::string& name, const CpuOptions& cpu) {
  if (name == "cpu") return make_cpu_device(cpu);
  CudaOptions options;
  const char* number = name.c_str() + std::string("cuda:").size();
  const bool numbered = name.starts_with("cuda:");
  if (numbered &&
      std::from_chars(number, name.c_str() + name.size(), options.device).ptr != name.c_str() + name.size()) {
    throw Error(ErrorKind::usage, "--device " + name + ": not a number");
  }
  if (!numbered && name != "cuda") throw Error(ErrorKind::usage, "--device " + name + ": cpu, cuda or cuda:N");
  if (const char* module = std::getenv("SPILLWAY_CUDA_MODULE")) options.module = module;
  std::string report;
  std::unique_ptr<Device> device = make_cuda_device(options, &report);
  if (device == nullptr) throw Error(ErrorKind::io, report);
  return device;
}

}  // namespace spillway
