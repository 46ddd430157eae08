// The order in which granules are chosen, as a whole number: larger for larger weights, 0 for what is no number. Zeros
// are equal, whatever their sign. Included by host and CUDA code.
#pragma once

#include <cstdint>

#include "kernels/blocks.h"

namespace spillway {

inline constexpr uint32_t kForcedGranule = 0xffffffff;  // above every weight

SPILLWAY_HD inline uint32_t granule_key(float weight) {
  if (weight != weight) return 0;
  const uint32_t bits = float_bits(weight + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace spillway
