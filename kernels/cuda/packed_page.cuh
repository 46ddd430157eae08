// Packed KV pages (kernels/kv_page.h) as a thread reads them: the codes of 8 channels of a token at a time, which
// become the 16 bytes of halves that they stand for. What reads pages as they are reads packed ones so, and adds
// nothing of its own but the way to the bytes.
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/kv_codec.h"

namespace spillway::cuda {

__device__ __forceinline__ float scale_of(uint32_t group) { return load_f16(static_cast<uint16_t>(group & 0xffff)); }
__device__ __forceinline__ float minimum_of(uint32_t group) { return load_f16(static_cast<uint16_t>(group >> 16)); }

// A code below 2^23 as a float.
__device__ __forceinline__ float code_value(uint32_t code) { return float_from_bits(0x4b000000u | code) - 0x1p23f; }

// The scales of 8 channels, one for each; or nothing, where a token has its own (PackedPiece has it then).
template <bool kPerChannel>
struct PieceScales {};
template <>
struct PieceScales<true> {
  uint32_t groups[8] = {};
  __device__ __forceinline__ void load_channels(const std::byte* page, int channel) {
    const uint4 low = load_cached(page + 4 * channel);
    const uint4 high = load_cached(page + 4 * channel + 16);
    groups[0] = low.x, groups[1] = low.y, groups[2] = low.z, groups[3] = low.w;
    groups[4] = high.x, groups[5] = high.y, groups[6] = high.z, groups[7] = high.w;
  }
};

// 8 codes of a token, from a channel on that is a multiple of 8: 2, 4 or 8 bytes.
template <bool kPerChannel>
struct PackedPiece {
  uint32_t low = 0;
  uint32_t high = 0;   // the last four codes of 8 bits
  uint32_t group = 0;  // the token's scale, where it has one

  __device__ __forceinline__ void load(const PackedPage& p, const std::byte* page, int token, bool value, int channel,
                                       bool there) {
    const int at = p.codes(token, value) + channel / 8 * p.bits;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(page + (at & ~3));
    low = there ? words[0] >> (at & 2) * 8 : 0;
    high = there && p.bits == 8 ? words[1] : 0;
    if constexpr (!kPerChannel) {
      const int scale = p.scales(token, value) + channel / p.group * 4;
      group = there ? *reinterpret_cast<const uint32_t*>(page + scale) : 0;
    }
  }

  __device__ __forceinline__ uint4 halves(int bits, const PieceScales<kPerChannel>& scales) const {
    const uint32_t mask = (1u << bits) - 1;
    float values[8];
    [[maybe_unused]] const float scale = scale_of(group);
    [[maybe_unused]] const float minimum = minimum_of(group);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t word = i >= 4 && bits == 8 ? high : low;
      const float code = code_value(word >> (i * bits & 31) & mask);
      if constexpr (kPerChannel) {
        values[i] = fmaf(code, scale_of(scales.groups[i]), minimum_of(scales.groups[i]));
      } else {
        values[i] = fmaf(code, scale, minimum);
      }
    }
    return {pack_f16(values[0], values[1]), pack_f16(values[2], values[3]), pack_f16(values[4], values[5]),
            pack_f16(values[6], values[7])};
  }
};

}  // namespace spillway::cuda
