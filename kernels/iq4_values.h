// The 16 values that the codes of IQ4_NL and IQ4_XS name, as the bytes of two words, code 0 lowest: -127, -104, -83,
// -65, -49, -35, -22, -10, and 1, 13, 25, 38, 53, 69, 89, 113.
#pragma once

#include <cstdint>

namespace spillway {

inline constexpr uint64_t kIq4Low = 0xf6eaddcfbfad9881;
inline constexpr uint64_t kIq4High = 0x7159453526190d01;

}  // namespace spillway
