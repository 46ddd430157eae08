// The emulation as a module. Its streams run in an order drawn from SPILLWAY_CUDA_EMULATION_SEED; once memory of the
// device is reserved, others have taken all but SPILLWAY_CUDA_EMULATION_LEFT bytes of it.
#include <cstdlib>

#include "tests/support/cuda_emulation/runtime.h"

namespace {

[[maybe_unused]] const bool ready = [] {
  const char* seed = std::getenv("SPILLWAY_CUDA_EMULATION_SEED");
  if (seed != nullptr) spillway::emulation::restart(std::strtoull(seed, nullptr, 10));
  const char* left = std::getenv("SPILLWAY_CUDA_EMULATION_LEFT");
  if (left != nullptr) spillway::emulation::leave_at_next_reservation(std::strtoull(left, nullptr, 10));
  return true;
}();

}  // namespace
