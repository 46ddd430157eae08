// Unquantised elements by 16 bytes: how many, how they become floats, and how floats become them (kernels/blocks.h).
#pragma once

#include "kernels/cuda/gpu.cuh"

namespace spillway::cuda {

struct ElementsF16 {
  static constexpr DType kType = DType::f16;
  static constexpr int kCount = 8;
  using Bits = uint16_t;
  __device__ __forceinline__ static void unpack(uint4 v, float* values) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      values[2 * i] = load_f16(static_cast<uint16_t>(words[i] & 0xffff));
      values[2 * i + 1] = load_f16(static_cast<uint16_t>(words[i] >> 16));
    }
  }
  __device__ __forceinline__ static uint4 pack(const float* values) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = f32_to_f16(values[2 * i]) | uint32_t{f32_to_f16(values[2 * i + 1])} << 16;
    return {words[0], words[1], words[2], words[3]};
  }
};

struct ElementsBf16 {
  static constexpr DType kType = DType::bf16;
  static constexpr int kCount = 8;
  using Bits = uint16_t;
  __device__ __forceinline__ static void unpack(uint4 v, float* values) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      values[2 * i] = float_from_bits(words[i] << 16);
      values[2 * i + 1] = float_from_bits(words[i] & 0xffff0000u);
    }
  }
  __device__ __forceinline__ static uint4 pack(const float* values) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = f32_to_bf16(values[2 * i]) | uint32_t{f32_to_bf16(values[2 * i + 1])} << 16;
    return {words[0], words[1], words[2], words[3]};
  }
};

struct ElementsF32 {
  static constexpr DType kType = DType::f32;
  static constexpr int kCount = 4;
  using Bits = uint32_t;
  __device__ __forceinline__ static void unpack(uint4 v, float* values) {
    values[0] = float_from_bits(v.x);
    values[1] = float_from_bits(v.y);
    values[2] = float_from_bits(v.z);
    values[3] = float_from_bits(v.w);
  }
  __device__ __forceinline__ static uint4 pack(const float* values) {
    return {float_bits(values[0]), float_bits(values[1]), float_bits(values[2]), float_bits(values[3])};
  }
};

// The first `count` elements of the 16 bytes at `address`, the rest zero. In one load where that may be.
template <typename Elements>
__device__ __forceinline__ uint4 load_elements(const std::byte* address, int count) {
  using Bits = typename Elements::Bits;
  if (count >= Elements::kCount && reinterpret_cast<uintptr_t>(address) % 16 == 0) return load_stream(address);
  const Bits* elements = reinterpret_cast<const Bits*>(address);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < Elements::kCount; i++) {
    if (i < count) words[i * sizeof(Bits) / 4] |= static_cast<uint32_t>(elements[i]) << (i * sizeof(Bits) % 4 * 8);
  }
  return {words[0], words[1], words[2], words[3]};
}

}  // namespace spillway::cuda
