// Weights in the block formats with five bits or a table, and in those of 256 elements (kernels/blocks.h,
// kernels/super_blocks.h): how 32 elements become 8 words of signed bytes with their scales. `words` are where the
// block lies, staged or in memory: words[i] is 4 bytes. `at` is the first byte of the block in there, an even number;
// `unit` is which of the block's 32s.
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/matvec.cuh"
#include "kernels/super_blocks.h"

namespace spillway::cuda {

// kCount words from the even byte address `at`.
template <int kCount, typename Words>
__device__ __forceinline__ void read_words(const Words& words, int at, uint32_t* out) {
  const int first = at / 4;
  const bool odd = at % 4 != 0;
  uint32_t word = words[first];
#pragma unroll
  for (int i = 0; i < kCount; i++) {
    const uint32_t next = odd || i + 1 < kCount ? words[first + i + 1] : 0;
    out[i] = odd ? __funnelshift_r(word, next, 16) : word;
    word = next;
  }
}

template <typename Words>
__device__ __forceinline__ uint32_t read_half(const Words& words, int at) {
  const uint32_t word = words[at / 4];
  return at % 4 != 0 ? word >> 16 : word & 0xffff;
}

template <typename Words>
__device__ __forceinline__ float read_scale(const Words& words, int at) {
  return load_f16(static_cast<uint16_t>(read_half(words, at)));
}

// Bytes below 128 less the bytes of `offsets`, as signed bytes.
__device__ __forceinline__ uint32_t minus_bytes(uint32_t bytes, uint32_t offsets) {
  return ((bytes | 0x80808080u) - offsets) ^ 0x80808080u;
}

// Four bits into bit 4 of four bytes.
__device__ __forceinline__ uint32_t fifth_bits(uint32_t four) { return ((four & 15) * 0x02040810u) & 0x10101010u; }

// The values of IQ4 that the four nibbles of `codes` name.
__device__ __forceinline__ uint32_t iq4_values(uint32_t codes) {
  const uint32_t index = codes & 0x7777;
  const uint32_t low = __byte_perm(static_cast<uint32_t>(kIq4Low), static_cast<uint32_t>(kIq4Low >> 32), index);
  const uint32_t high = __byte_perm(static_cast<uint32_t>(kIq4High), static_cast<uint32_t>(kIq4High >> 32), index);
  return __byte_perm(low, high, 0x3210 | ((codes >> 1) & 0x4444));
}

// 32 signed bytes, and their products with 32 codes of x.
struct SignedBytes {
  uint32_t codes[8];

  template <int kFirst, int kCount>
  __device__ __forceinline__ int dot(const uint32_t* x) const {
    int sum = 0;
#pragma unroll
    for (int i = kFirst; i < kFirst + kCount; i++) {
      sum = __dp4a(static_cast<int>(codes[i]), static_cast<int>(x[i]), sum);
    }
    return sum;
  }
  // 16 bytes of nibbles: low ones first.
  template <typename Words>
  __device__ __forceinline__ void read_nibbles(const Words& words, int at) {
    read_words<4>(words, at, codes);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      codes[4 + i] = (codes[i] >> 4) & 0x0f0f0f0fu;
      codes[i] &= 0x0f0f0f0fu;
    }
  }
  // 16 bytes of nibbles that name values.
  template <typename Words>
  __device__ __forceinline__ void read_iq4(const Words& words, int at) {
    uint32_t raw[4];
    read_words<4>(words, at, raw);
#pragma unroll
    for (int i = 0; i < 4; i++) {  // elements 4i, 4i + 16, 4i + 1, ...
      const uint32_t first = iq4_values(raw[i] & 0xffff);
      const uint32_t second = iq4_values(raw[i] >> 16);
      codes[i] = __byte_perm(first, second, 0x6420);
      codes[4 + i] = __byte_perm(first, second, 0x7531);
    }
  }
  // kBits of each of 32 bytes, from bit `shift` on.
  template <int kBits, typename Words>
  __device__ __forceinline__ void read_plane(const Words& words, int at, int shift) {
    read_words<8>(words, at, codes);
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] = (codes[i] >> shift) & (0x01010101u * ((1u << kBits) - 1));
  }
  // Adds kBits of each of 32 bytes, from bit `shift` on, at bit kTo.
  template <int kBits, int kTo, typename Words>
  __device__ __forceinline__ void add_plane(const Words& words, int at, int shift) {
    uint32_t raw[8];
    read_words<8>(words, at, raw);
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] |= ((raw[i] >> shift) & (0x01010101u * ((1u << kBits) - 1))) << kTo;
  }
  __device__ __forceinline__ void subtract(int offset) {
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] = minus_bytes(codes[i], 0x01010101u * static_cast<uint32_t>(offset));
  }
  __device__ __forceinline__ void add_fifth_bits(uint32_t bits) {
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] |= fifth_bits(bits >> (4 * i));
  }
};

// One scale to the 32 elements.
template <DType type>
struct OneScale : SignedBytes {
  static constexpr DType kType = type;
  static constexpr int kBytes = info(type).block_bytes;
  static constexpr int kRows = matvec_step(type).rows;
  static constexpr bool kHalves = false;  // with scales of their own
  static constexpr bool kHasOffset = false;
  float scale;

  __device__ __forceinline__ float scale_of(int /*half*/) const { return scale; }
  __device__ __forceinline__ float offset_of(int /*half*/) const { return 0.0f; }
  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int /*x_sum*/, float acc) const {
    return fmaf(scale * x_scale, static_cast<float>(dot<0, 8>(x)), acc);
  }
};

// One scale and one offset to the 32 elements.
template <DType type>
struct ScaleAndOffset : SignedBytes {
  static constexpr DType kType = type;
  static constexpr int kBytes = info(type).block_bytes;
  static constexpr int kRows = matvec_step(type).rows;
  static constexpr bool kHalves = false;
  static constexpr bool kHasOffset = true;
  float scale;
  float offset;

  __device__ __forceinline__ float scale_of(int /*half*/) const { return scale; }
  __device__ __forceinline__ float offset_of(int /*half*/) const { return offset; }
  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int x_sum, float acc) const {
    const float with_scale = fmaf(scale * x_scale, static_cast<float>(dot<0, 8>(x)), acc);
    return fmaf(offset * x_scale, static_cast<float>(x_sum), with_scale);
  }

  // Q4_K and Q5_K: d, dmin and the packed scales start the block.
  template <typename Words>
  __device__ __forceinline__ void read_six_bit_scales(const Words& words, int at, int unit) {
    uint32_t packed[3];
    read_words<3>(words, at + 4, packed);
    const int shift = 8 * (unit % 4);
    const uint32_t a = packed[0] >> shift;
    const uint32_t b = packed[1] >> shift;
    const uint32_t c = packed[2] >> shift;
    const uint32_t s = unit < 4 ? a & 63 : (c & 15) | (a >> 2 & 48);
    const uint32_t m = unit < 4 ? b & 63 : (c >> 4 & 15) | (b >> 2 & 48);
    scale = read_scale(words, at) * static_cast<float>(s);
    offset = -read_scale(words, at + 2) * static_cast<float>(m);
  }
};

// A scale to each half of the 32 elements.
template <DType type>
struct TwoScales : SignedBytes {
  static constexpr DType kType = type;
  static constexpr int kBytes = info(type).block_bytes;
  static constexpr int kRows = matvec_step(type).rows;
  static constexpr bool kHalves = true;
  static constexpr bool kHasOffset = false;
  float scale[2];

  __device__ __forceinline__ float scale_of(int half) const { return scale[half]; }
  __device__ __forceinline__ float offset_of(int /*half*/) const { return 0.0f; }
  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int /*x_sum*/, float acc) const {
    const float first = fmaf(scale[0] * x_scale, static_cast<float>(dot<0, 4>(x)), acc);
    return fmaf(scale[1] * x_scale, static_cast<float>(dot<4, 4>(x)), first);
  }
};

struct WeightQ5_0 : OneScale<DType::q5_0> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int /*unit*/) {
    uint32_t fifth;
    scale = read_scale(words, at);
    read_words<1>(words, at + 2, &fifth);
    read_nibbles(words, at + 6);
    add_fifth_bits(fifth);
    subtract(16);
  }
};

struct WeightQ5_1 : ScaleAndOffset<DType::q5_1> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int /*unit*/) {
    uint32_t fifth;
    scale = read_scale(words, at);
    offset = read_scale(words, at + 2);
    read_words<1>(words, at + 4, &fifth);
    read_nibbles(words, at + 8);
    add_fifth_bits(fifth);
  }
};

struct WeightIQ4_NL : OneScale<DType::iq4_nl> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int /*unit*/) {
    scale = read_scale(words, at);
    read_iq4(words, at + 2);
  }
};

struct WeightIQ4_XS : OneScale<DType::iq4_xs> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    const uint32_t low = read_half(words, at + 4 + unit / 4 * 2) >> (unit % 4 * 4) & 15;
    const uint32_t high = read_half(words, at + 2) >> (2 * unit) & 3;
    scale = read_scale(words, at) * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    read_iq4(words, at + 8 + 16 * unit);
  }
};

struct WeightQ4_K : ScaleAndOffset<DType::q4_k> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    read_six_bit_scales(words, at, unit);
    read_plane<4>(words, at + 16 + unit / 2 * 32, unit % 2 * 4);
  }
};

struct WeightQ5_K : ScaleAndOffset<DType::q5_k> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    read_six_bit_scales(words, at, unit);
    read_plane<4>(words, at + 48 + unit / 2 * 32, unit % 2 * 4);
    add_plane<1, 4>(words, at + 16, unit);
  }
};

struct WeightQ2_K : TwoScales<DType::q2_k> {
  static constexpr bool kHasOffset = true;
  float offset[2];

  __device__ __forceinline__ float offset_of(int half) const { return offset[half]; }
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    const uint32_t both = read_half(words, at + 2 * unit);
    const float d = read_scale(words, at + 80);
    const float dmin = read_scale(words, at + 82);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      scale[half] = d * static_cast<float>(both >> (8 * half) & 15);
      offset[half] = -dmin * static_cast<float>(both >> (8 * half + 4) & 15);
    }
    read_plane<2>(words, at + 16 + unit / 4 * 32, unit % 4 * 2);
  }
  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int x_sum, float acc) const {
    int first = 0;  // sum of the first half of x
#pragma unroll
    for (int i = 0; i < 4; i++) first = __dp4a(0x01010101, static_cast<int>(x[i]), first);
    const float with_scales = TwoScales::fold(x, x_scale, x_sum, acc);
    const float with_first = fmaf(offset[0] * x_scale, static_cast<float>(first), with_scales);
    return fmaf(offset[1] * x_scale, static_cast<float>(x_sum - first), with_first);
  }
};

struct WeightQ3_K : TwoScales<DType::q3_k> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    const float d = read_scale(words, at + 108);
    // Sub-blocks 2 * unit and the next: neighbours in the low bits, and in the high ones.
    const uint32_t low = read_half(words, at + 96 + 2 * (unit % 4)) >> (unit / 4 * 4);
    const uint32_t high = read_half(words, at + 104 + 2 * (unit % 2)) >> (unit / 2 * 2);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t six = (low >> (8 * half) & 15) | (high >> (8 * half) & 3) << 4;
      scale[half] = d * static_cast<float>(static_cast<int>(six) - 32);
    }
    read_plane<2>(words, at + 32 + unit / 4 * 32, unit % 4 * 2);
    add_plane<1, 2>(words, at, unit);
    subtract(4);
  }
};

struct WeightQ6_K : TwoScales<DType::q6_k> {
  template <typename Words>
  __device__ __forceinline__ void unpack(const Words& words, int at, int unit) {
    const float d = read_scale(words, at + 208);
    const uint32_t both = read_half(words, at + 192 + 2 * unit);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      scale[half] = d * static_cast<float>(static_cast<int8_t>(both >> (8 * half) & 255));
    }
    read_plane<4>(words, at + unit / 4 * 64 + unit % 2 * 32, unit % 4 / 2 * 4);
    add_plane<2, 4>(words, at + 128 + unit / 4 * 32, unit % 4 * 2);
    subtract(32);
  }
};

}  // namespace spillway::cuda
