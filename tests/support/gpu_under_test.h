// Tests of the CUDA device run on the emulation, or, with SPILLWAY_TEST_GPU set, through the installed module on a GPU
// (scripts/gpu-run.sh): the same tests. Each test that can says where it ran.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "kernels/cuda_device.h"
#include "kernels/cuda_module.h"
#include "tests/support/cuda_emulation/runtime.h"

namespace spillway {

inline bool testing_a_gpu() { return std::getenv("SPILLWAY_TEST_GPU") != nullptr; }

inline const SpillwayCudaTable& table_under_test() {
  if (!testing_a_gpu()) return *spillway_cuda_table();
  static const CudaModule module;
  if (module.devices() == 0) throw std::runtime_error(module.report());
  return *module.table();
}

inline std::unique_ptr<Device> gpu_under_test(bool graphs = true) {
  return std::make_unique<CudaDevice>(nullptr, table_under_test(), 0, graphs);
}

// Streams of the emulation run in the orders of `seed` from now on.
inline void begin_on_gpu_under_test(uint64_t seed) {
  testing::Test::RecordProperty("ran_on", testing_a_gpu() ? "GPU" : "emulation");
  if (!testing_a_gpu()) emulation::restart(seed);
}

}  // namespace spillway
