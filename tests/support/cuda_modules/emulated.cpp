// The emulation as a module. Its streams run in an order drawn from SPILLWAY_CUDA_EMULATION_SEED.
#include <cstdlib>

#include "tests/support/cuda_emulation/runtime.h"

namespace {

[[maybe_unused]] const bool seeded = [] {
  const char* seed = std::getenv("SPILLWAY_CUDA_EMULATION_SEED");
  if (seed != nullptr) spillway::emulation::restart(std::strtoull(seed, nullptr, 10));
  return true;
}();

}  // namespace
