// A full KV page, packed (kernels/kv_page.h).
#pragma once

#include <cstddef>

#include "kernels/cpu/kernels.h"

namespace spillway {

// `count` codes, a multiple of 8, side by side.
void put_codes(const uint8_t* codes, int count, int bits, std::byte* out);
// One head's page of F16; head_dim up to kMostHeadDim. The bytes of the reference, to the bit.
void pack_page(const CpuKernels& kernels, const PackedPage& layout, const std::byte* page, std::byte* packed);

}  // namespace spillway
