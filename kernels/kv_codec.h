// The arithmetic of packed KV pages, the same to the bit on every device: asymmetric, round to nearest (KIVI, arXiv
// 2402.02750, section 3). All of it is single precision, each operation rounded to nearest even, none of them fused.
//
// A group's minimum m is its smallest element, and its scale s = half((max - min) / levels), levels = 2^bits - 1. The
// code of x is round((x - m) * (1 / s)), at most `levels`; where s is zero, zero. A code c stands for half(c * s + m),
// and what reads a packed page reads just these half-precision numbers: attention over it is, to the bit, attention
// over the page that it unpacks to. Of a group in which something is not finite the scale is not a number, and neither
// is then anything read from it.
#pragma once

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/kv_page.h"

namespace spillway {

inline constexpr uint16_t kNoScale = 0x7e00;

SPILLWAY_HD inline bool is_finite_f16(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// Whether x is finite in half precision, too.
SPILLWAY_HD inline bool fits_f16(float x) { return x > -65520.0f && x < 65520.0f; }

// Nearest even, for 0 <= x < 2^22.
SPILLWAY_HD inline float round_code(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

// Exactly the product, then one sum: it makes no difference whether they are fused.
SPILLWAY_HD inline uint16_t unpacked(float code, float scale, float minimum) {
  return f32_to_f16(code * scale + minimum);
}

// smallest and largest: of the group's elements; finite: whether all of them are.
SPILLWAY_HD inline GroupScale group_scale(float smallest, float largest, bool finite, int bits) {
  if (!finite) return {kNoScale, 0};
  const float levels = static_cast<float>((1 << bits) - 1);
  const uint16_t minimum = f32_to_f16(smallest + 0.0f);  // zero without a sign
  uint16_t scale = f32_to_f16((largest - smallest) / levels);
  // Rounded up, it could take the largest code beyond what half precision holds.
  if (scale != 0 && !is_finite_f16(unpacked(levels, f16_to_f32(scale), f16_to_f32(minimum)))) scale--;
  return {scale, minimum};
}

// What (x - minimum) is multiplied by.
SPILLWAY_HD inline float inverse_of(GroupScale group) {
  return is_finite_f16(group.scale) && group.scale != 0 ? 1.0f / f16_to_f32(group.scale) : 0.0f;
}

// `inverse` and `minimum` of the group; x is any number, and zero stands for what is none.
SPILLWAY_HD inline uint32_t code_of(float x, float minimum, float inverse, int bits) {
  const float levels = static_cast<float>((1 << bits) - 1);
  const float y = (x - minimum) * inverse;
  return static_cast<uint32_t>(round_code(y > 0.0f ? (y < levels ? y : levels) : 0.0f));
}

}  // namespace spillway
