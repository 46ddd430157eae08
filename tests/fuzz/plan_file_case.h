// One case of the fuzzer of plans.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// Reads the bytes as a plan. What was read is written and read again: it is the same. Then it is carried out, as far as
// sizes go, for a dense model and one of experts, on a CPU and beside one: any plan that comes of it keeps the rules
// that the engine relies on. Returns how many came of it; below 0: it was no plan. Throws only what must not be thrown:
// anything but Error(usage) and Error(fit).
int try_plan(std::span<const std::byte> bytes);

}  // namespace spillway
