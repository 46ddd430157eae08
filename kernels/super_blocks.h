// Block formats of 256 elements, exactly as GGUF stores them ("K-quants", and IQ4_XS): sub-blocks of 16 or 32 elements
// with quantised scales of their own. Included by host and CUDA code, as kernels/blocks.h.
#pragma once

#include "kernels/blocks.h"
#include "kernels/check.h"

namespace spillway {

inline constexpr int kSuperBlockElements = 256;

// Codes of 2 bits. Byte l of half n (128 elements each) holds elements 128n + l, + 32, + 64, + 96, lowest bits first.
// Sub-blocks of 16: the low nibble of scales[s] is the scale, the high one the offset.
// Element = d * scale * q - dmin * offset.
struct BlockQ2_K {
  static constexpr int kElements = kSuperBlockElements;
  uint8_t scales[kSuperBlockElements / 16];
  uint8_t qs[kSuperBlockElements / 4];
  uint16_t d;     // fp16
  uint16_t dmin;  // fp16
};

// Codes of 3 bits: the low two as in Q2_K, the third of element 32j + l is bit j of hmask[l].
// Sub-blocks of 16, scales of 6 bits. Element = d * (scale - 32) * (q - 4).
struct BlockQ3_K {
  static constexpr int kElements = kSuperBlockElements;
  uint8_t hmask[kSuperBlockElements / 8];
  uint8_t qs[kSuperBlockElements / 4];
  uint8_t scales[12];
  uint16_t d;  // fp16
};

// Codes of 4 bits: byte 32j + l of qs holds elements 64j + l (low) and 64j + 32 + l (high).
// Sub-blocks of 32, scales and offsets of 6 bits. Element = d * scale * q - dmin * offset.
struct BlockQ4_K {
  static constexpr int kElements = kSuperBlockElements;
  uint16_t d;     // fp16
  uint16_t dmin;  // fp16
  uint8_t scales[12];
  uint8_t qs[kSuperBlockElements / 2];
};

// Codes of 5 bits: the low four as in Q4_K, the fifth of element 32j + l is bit j of qh[l]. Scales as in Q4_K.
struct BlockQ5_K {
  static constexpr int kElements = kSuperBlockElements;
  uint16_t d;     // fp16
  uint16_t dmin;  // fp16
  uint8_t scales[12];
  uint8_t qh[kSuperBlockElements / 8];
  uint8_t qs[kSuperBlockElements / 2];
};

// Codes of 6 bits, in halves n of 128 elements: element 128n + 32j + l has its low four bits in byte
// 64n + 32 (j mod 2) + l of ql (the low nibble for j < 2), its high two in bits 2j of byte 32n + l of qh.
// Sub-blocks of 16. Element = d * scale * (q - 32).
struct BlockQ6_K {
  static constexpr int kElements = kSuperBlockElements;
  uint8_t ql[kSuperBlockElements / 2];
  uint8_t qh[kSuperBlockElements / 4];
  int8_t scales[kSuperBlockElements / 16];
  uint16_t d;  // fp16
};

// Sub-blocks of 32 elements with nibbles as in IQ4_NL. Scales of 6 bits: nibble j of scales_l, bits 2j of scales_h.
// Element = d * (scale - 32) * value.
struct BlockIQ4_XS {
  static constexpr int kElements = kSuperBlockElements;
  uint16_t d;  // fp16
  uint16_t scales_h;
  uint8_t scales_l[kSuperBlockElements / 64];
  uint8_t qs[kSuperBlockElements / 2];
};

static_assert(sizeof(BlockQ2_K) == info(DType::q2_k).block_bytes && alignof(BlockQ2_K) == 2);
static_assert(sizeof(BlockQ3_K) == info(DType::q3_k).block_bytes && alignof(BlockQ3_K) == 2);
static_assert(sizeof(BlockQ4_K) == info(DType::q4_k).block_bytes && alignof(BlockQ4_K) == 2);
static_assert(sizeof(BlockQ5_K) == info(DType::q5_k).block_bytes && alignof(BlockQ5_K) == 2);
static_assert(sizeof(BlockQ6_K) == info(DType::q6_k).block_bytes && alignof(BlockQ6_K) == 2);
static_assert(sizeof(BlockIQ4_XS) == info(DType::iq4_xs).block_bytes && alignof(BlockIQ4_XS) == 2);

// Scale and offset of sub-block s in [0, 8) of Q4_K and Q5_K, 6 bits each: those of the first four sub-blocks lie in
// the low bits of bytes s and s + 4, those of the others in the nibbles of byte s + 4 and the high bits of the former.
struct ScaleOffset {
  int scale;
  int offset;
};
SPILLWAY_HD inline ScaleOffset scale_offset(const uint8_t* scales, int s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4, scales[s + 4] >> 4 | (scales[s] >> 6) << 4};
}

// Scale of sub-block s in [0, 16) of Q3_K: low four bits in the nibbles of bytes 0 .. 7, high two in bytes 8 .. 11.
SPILLWAY_HD inline int scale_of(const BlockQ3_K& block, int s) {
  const int low = s < 8 ? block.scales[s] & 15 : block.scales[s - 8] >> 4;
  return (low | (block.scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4) - 32;
}

SPILLWAY_HD inline int scale_of(const BlockIQ4_XS& block, int s) {
  const int low = block.scales_l[s / 2] >> (s % 2 * 4) & 15;
  return (low | (block.scales_h >> (2 * s) & 3) << 4) - 32;
}

SPILLWAY_HD inline int two_bits(const uint8_t* qs, int i) {
  return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

SPILLWAY_HD inline int four_bits(const uint8_t* qs, int i) {
  return qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

SPILLWAY_HD inline int six_bits(const BlockQ6_K& block, int i) {
  const int low = block.ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
  return low | two_bits(block.qh, i) << 4;
}

// One element of a block, i in [0, 256). Products of d, scale and code are exact in float (at most 24 bits), so that
// again each value is rounded at most once.
SPILLWAY_HD inline float block_element(const BlockQ2_K& block, int i) {
  const int scale = block.scales[i / 16];
  const float value = f16_to_f32(block.d) * static_cast<float>((scale & 15) * two_bits(block.qs, i));
  return value - f16_to_f32(block.dmin) * static_cast<float>(scale >> 4);
}

SPILLWAY_HD inline float block_element(const BlockQ3_K& block, int i) {
  const int code = two_bits(block.qs, i) | (block.hmask[i % 32] >> (i / 32) & 1) << 2;
  return f16_to_f32(block.d) * static_cast<float>(scale_of(block, i / 16) * (code - 4));
}

SPILLWAY_HD inline float block_element(const BlockQ4_K& block, int i) {
  const ScaleOffset s = scale_offset(block.scales, i / 32);
  const float value = f16_to_f32(block.d) * static_cast<float>(s.scale * four_bits(block.qs, i));
  return value - f16_to_f32(block.dmin) * static_cast<float>(s.offset);
}

SPILLWAY_HD inline float block_element(const BlockQ5_K& block, int i) {
  const ScaleOffset s = scale_offset(block.scales, i / 32);
  const int code = four_bits(block.qs, i) | (block.qh[i % 32] >> (i / 32) & 1) << 4;
  const float value = f16_to_f32(block.d) * static_cast<float>(s.scale * code);
  return value - f16_to_f32(block.dmin) * static_cast<float>(s.offset);
}

SPILLWAY_HD inline float block_element(const BlockQ6_K& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(block.scales[i / 16] * (six_bits(block, i) - 32));
}

SPILLWAY_HD inline float block_element(const BlockIQ4_XS& block, int i) {
  const int code = nibble(block.qs + i / 32 * 16, i % 32);
  return f16_to_f32(block.d) * static_cast<float>(scale_of(block, i / 32) * iq4_value(code));
}

// Calls f with an empty block of the quantised type, whose C++ type is what f is after.
template <typename F>
decltype(auto) with_block_type(DType type, F&& f) {
  switch (type) {
    case DType::q8_0:
      return f(BlockQ8_0{});
    case DType::q4_0:
      return f(BlockQ4_0{});
    case DType::q4_1:
      return f(BlockQ4_1{});
    case DType::q5_0:
      return f(BlockQ5_0{});
    case DType::q5_1:
      return f(BlockQ5_1{});
    case DType::iq4_nl:
      return f(BlockIQ4_NL{});
    case DType::q2_k:
      return f(BlockQ2_K{});
    case DType::q3_k:
      return f(BlockQ3_K{});
    case DType::q4_k:
      return f(BlockQ4_K{});
    case DType::q5_k:
      return f(BlockQ5_K{});
    case DType::q6_k:
      return f(BlockQ6_K{});
    case DType::iq4_xs:
      return f(BlockIQ4_XS{});
    default:
      break;
  }
  SPILLWAY_CHECK(!"a quantised type");
  return f(BlockQ8_0{});
}

}  // namespace spillway
