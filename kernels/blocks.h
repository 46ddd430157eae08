// Block formats of quantised tensors, exactly as GGUF stores them, and the conversions of single elements. Included by
// host and CUDA code, so that both sides give the same bits: integer arithmetic where rounding matters, no table.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/iq4_values.h"
#include "kernels/view.h"

#ifdef __CUDACC__
#define SPILLWAY_HD __host__ __device__
#else
#define SPILLWAY_HD
#endif

namespace spillway {

inline constexpr int kBlockElements = 32;

// Element i = d * qs[i].
struct BlockQ8_0 {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  int8_t qs[kBlockElements];
};

// Two elements to a byte: the low nibble of qs[i] is element i, the high one element i + 16. Element = d * (q - 8).
struct BlockQ4_0 {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  uint8_t qs[kBlockElements / 2];
};

// Nibbles as in Q4_0. Element = d * q + m.
struct BlockQ4_1 {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  uint16_t m;  // fp16
  uint8_t qs[kBlockElements / 2];
};

// Five bits: the low four as nibbles, the fifth of element i is bit i of qh. Element = d * (q - 16).
struct BlockQ5_0 {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  uint8_t qh[kBlockElements / 8];
  uint8_t qs[kBlockElements / 2];
};

// Five bits as in Q5_0. Element = d * q + m.
struct BlockQ5_1 {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  uint16_t m;  // fp16
  uint8_t qh[kBlockElements / 8];
  uint8_t qs[kBlockElements / 2];
};

// Nibbles as in Q4_0, each naming one of 16 values. Element = d * value.
struct BlockIQ4_NL {
  static constexpr int kElements = kBlockElements;
  uint16_t d;  // fp16
  uint8_t qs[kBlockElements / 2];
};

static_assert(sizeof(BlockQ8_0) == info(DType::q8_0).block_bytes && alignof(BlockQ8_0) == 2);
static_assert(sizeof(BlockQ4_0) == info(DType::q4_0).block_bytes && alignof(BlockQ4_0) == 2);
static_assert(sizeof(BlockQ4_1) == info(DType::q4_1).block_bytes && alignof(BlockQ4_1) == 2);
static_assert(sizeof(BlockQ5_0) == info(DType::q5_0).block_bytes && alignof(BlockQ5_0) == 2);
static_assert(sizeof(BlockQ5_1) == info(DType::q5_1).block_bytes && alignof(BlockQ5_1) == 2);
static_assert(sizeof(BlockIQ4_NL) == info(DType::iq4_nl).block_bytes && alignof(BlockIQ4_NL) == 2);

SPILLWAY_HD inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

SPILLWAY_HD inline float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Exact. A signalling NaN becomes quiet and keeps the rest of its payload, as x86's F16C does.
SPILLWAY_HD inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, a normal float
    return float_from_bits(sign | float_bits(static_cast<float>(mantissa) * 0x1p-24f));
  }
  if (exponent == 31) return float_from_bits(sign | 0x7f800000 | (mantissa != 0 ? 0x400000 : 0) | mantissa << 13);
  return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Round to nearest even; from 65520 on infinity; NaN stays NaN, quiet, with the top of its payload.
SPILLWAY_HD inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  } else if (magnitude >= 0x477ff000) {
    half = 0x7c00;
  } else if (magnitude >= 0x38800000) {  // 2^-14: normal; a carry out of the mantissa rightly raises the exponent
    const uint32_t rebiased = magnitude - 0x38000000;
    half = (rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13;
  } else if (magnitude >= 0x33000000) {  // 2^-25: rounds to a subnormal, in units of 2^-24
    const uint32_t shift = 126 - (magnitude >> 23);
    const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
    const uint32_t rest = mantissa & ((1u << shift) - 1);
    const uint32_t tie = 1u << (shift - 1);
    half = mantissa >> shift;
    half += rest > tie || (rest == tie && (half & 1) != 0) ? 1 : 0;
  } else {
    half = 0;
  }
  return static_cast<uint16_t>(sign | half);
}

// Exact, all payloads kept.
SPILLWAY_HD inline float bf16_to_f32(uint16_t half) { return float_from_bits(static_cast<uint32_t>(half) << 16); }

// Round to nearest even, subnormals included; NaN stays NaN, quiet, with the top of its payload.
SPILLWAY_HD inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// One element of a block, i in [0, kElements). Scale times code is exact in float (11 + 8 bits), so each value is
// rounded at most once and a fused multiply-add gives the same bits.
SPILLWAY_HD inline float block_element(const BlockQ8_0& block, int i) { return f16_to_f32(block.d) * block.qs[i]; }

SPILLWAY_HD inline int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

SPILLWAY_HD inline float block_element(const BlockQ4_0& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(nibble(block.qs, i) - 8);
}

SPILLWAY_HD inline float block_element(const BlockQ4_1& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(nibble(block.qs, i)) + f16_to_f32(block.m);
}

SPILLWAY_HD inline int five_bits(const uint8_t* qs, const uint8_t* qh, int i) {
  return nibble(qs, i) | (qh[i / 8] >> (i % 8) & 1) << 4;
}

SPILLWAY_HD inline float block_element(const BlockQ5_0& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(five_bits(block.qs, block.qh, i) - 16);
}

SPILLWAY_HD inline float block_element(const BlockQ5_1& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(five_bits(block.qs, block.qh, i)) + f16_to_f32(block.m);
}

SPILLWAY_HD inline int iq4_value(int code) {
  return static_cast<int8_t>((code < 8 ? kIq4Low : kIq4High) >> (code % 8 * 8) & 0xff);
}

SPILLWAY_HD inline float block_element(const BlockIQ4_NL& block, int i) {
  return f16_to_f32(block.d) * static_cast<float>(iq4_value(nibble(block.qs, i)));
}

// values[Block::kElements] of one block.
template <typename Block>
SPILLWAY_HD inline void dequantize_block(const Block& block, float* values) {
  for (int i = 0; i < Block::kElements; i++) values[i] = block_element(block, i);
}

// Quantisation gives the codes of ggml's reference quantisers: the scale is rounded to fp16 for storage only, the codes
// are found with the unrounded one. Values that are not finite give codes in range and no sense.

// nvcc would fuse this product with the sum that follows, and round differently from the host.
SPILLWAY_HD inline float unfused_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// Truncates, after a clamp that is also what keeps a NaN from becoming an undefined conversion.
SPILLWAY_HD inline int clamped_code(float x, float low, float high) {
  return static_cast<int>(fmaxf(low, fminf(high, x)));
}

// Scale: largest magnitude / 127; codes rounded to nearest, ties away from zero.
SPILLWAY_HD inline void quantize_block(const float* x, BlockQ8_0* block) {
  float largest = 0.0f;
  for (int i = 0; i < kBlockElements; i++) largest = fmaxf(largest, fabsf(x[i]));
  const float d = largest / 127.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  block->d = f32_to_f16(d);
  for (int i = 0; i < kBlockElements; i++) {
    block->qs[i] = static_cast<int8_t>(clamped_code(roundf(x[i] * inverse), -127.0f, 127.0f));
  }
}

// Scale: the (first) value of largest magnitude / -8, so that this one is met by code 0.
SPILLWAY_HD inline void quantize_block(const float* x, BlockQ4_0* block) {
  float largest = 0.0f;
  float signed_largest = 0.0f;
  for (int i = 0; i < kBlockElements; i++) {
    if (fabsf(x[i]) > largest) {
      largest = fabsf(x[i]);
      signed_largest = x[i];
    }
  }
  const float d = signed_largest / -8.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  block->d = f32_to_f16(d);
  for (int i = 0; i < kBlockElements / 2; i++) {
    const int low = clamped_code(unfused_product(x[i], inverse) + 8.5f, 0.0f, 15.0f);
    const int high = clamped_code(unfused_product(x[i + kBlockElements / 2], inverse) + 8.5f, 0.0f, 15.0f);
    block->qs[i] = static_cast<uint8_t>(low | high << 4);
  }
}

// Offset: the least value; scale: the range / 15.
SPILLWAY_HD inline void quantize_block(const float* x, BlockQ4_1* block) {
  float least = x[0];
  float most = x[0];
  for (int i = 1; i < kBlockElements; i++) {
    least = fminf(least, x[i]);
    most = fmaxf(most, x[i]);
  }
  const float d = (most - least) / 15.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  block->d = f32_to_f16(d);
  block->m = f32_to_f16(least);
  for (int i = 0; i < kBlockElements / 2; i++) {
    const int low = clamped_code(unfused_product(x[i] - least, inverse) + 0.5f, 0.0f, 15.0f);
    const int high = clamped_code(unfused_product(x[i + kBlockElements / 2] - least, inverse) + 0.5f, 0.0f, 15.0f);
    block->qs[i] = static_cast<uint8_t>(low | high << 4);
  }
}

}  // namespace spillway
