// Stands in for CUDA's headers where kernels/cuda/*.cu are compiled for the emulation (kernels/cuda/gpu.cuh): the words
// of CUDA C++ that the kernels use, and those that gpu.cuh adds. Grows with them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "kernels/blocks.h"
#include "tests/support/cuda_emulation/block.h"
#include "tests/support/cuda_emulation/runtime.h"
#include "tests/support/cuda_emulation/tensor_cores.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::spillway::emulation::Block::current().thread_index())
#define blockIdx (::spillway::emulation::Block::current().block_index())
#define blockDim (::spillway::emulation::Block::current().block_size())
#define gridDim (::spillway::emulation::Block::current().grid_size())

#define SPILLWAY_SHARED(type, name, count)        \
  static const char name##_site = 0;              \
  const ::spillway::emulation::Shared<type> name( \
      ::spillway::emulation::Block::current().shared().fixed(&name##_site, #name, __func__, (count) * sizeof(type)))

namespace spillway::emulation {

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

using Where = std::source_location;

inline void __syncthreads(const Where& where = Where::current()) { Block::current().barrier(where); }
// Whether any thread of the block votes so; a barrier as __syncthreads is.
inline int __syncthreads_or(int vote, const Where& where = Where::current()) {
  return Block::current().barrier(where, vote != 0);
}
inline void __syncwarp(uint32_t mask = ~0u, const Where& where = Where::current()) {
  Block::current().warp(WarpVerb::sync, mask, 0, 0, where);
}

template <typename T>
T shuffle(WarpVerb verb, uint32_t mask, T value, uint32_t operand, const Where& where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = Block::current().warp(verb, mask, bits, operand, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int lane, const Where& where = Where::current()) {
  return shuffle(WarpVerb::shuffle, mask, value, static_cast<uint32_t>(lane), where);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, const Where& where = Where::current()) {
  return shuffle(WarpVerb::shuffle_xor, mask, value, static_cast<uint32_t>(lanes), where);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, const Where& where = Where::current()) {
  return shuffle(WarpVerb::shuffle_down, mask, value, by, where);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, const Where& where = Where::current()) {
  return shuffle(WarpVerb::shuffle_up, mask, value, by, where);
}
inline uint32_t __ballot_sync(uint32_t mask, int vote, const Where& where = Where::current()) {
  return static_cast<uint32_t>(Block::current().warp(WarpVerb::ballot, mask, vote != 0, 0, where));
}
inline int __any_sync(uint32_t mask, int vote, const Where& where = Where::current()) {
  return __ballot_sync(mask, vote, where) != 0;
}
inline int __all_sync(uint32_t mask, int vote, const Where& where = Where::current()) {
  return __ballot_sync(mask, vote, where) == mask;
}

inline int __popc(uint32_t x) { return __builtin_popcount(x); }

// Four products of signed bytes, added to c.
inline int __dp4a(int a, int b, int c) {
  for (int shift = 0; shift < 32; shift += 8) c += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
  return c;
}

// Four bytes of high:low, each named by the low three bits of a nibble of `selector`; with the nibble's fourth bit, its
// sign alone.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    const auto byte = static_cast<uint8_t>(bytes >> (8 * (nibble & 7)));
    result |= ((nibble & 8) != 0 ? (byte & 0x80) != 0 ? 0xffu : 0u : uint32_t{byte}) << (8 * i);
  }
  return result;
}

// The low word of high:low moved right by shift mod 32.
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>(((uint64_t{high} << 32) | low) >> (shift & 31));
}

template <typename T>
Shared<T> dynamic_shared(int offset, int count) {
  return Shared<T>(Block::current().shared().dynamic(static_cast<size_t>(offset), count * sizeof(T)));
}

inline void store_words(const Shared<uint32_t>& words, int word, uint4 value) { words.write_wide(word, value); }

inline float4 load_floats(const Shared<float>& floats, int index) { return floats.read_wide<float4>(index); }
inline void store_floats(const Shared<float>& floats, int index, float4 value) { floats.write_wide(index, value); }

template <typename T>
T load_wide(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) fault("a wide load that is not aligned");
  check_addressable(address, sizeof(T));
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}
inline uint4 load_stream(const void* address) { return load_wide<uint4>(address); }
inline uint2 load_pair(const uint2* address) { return load_wide<uint2>(address); }
inline uint4 load_cached(const void* address) { return load_wide<uint4>(address); }
inline float4 load_floats(const float* address) { return load_wide<float4>(address); }
template <typename T>
void store_wide(void* address, const T& value) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof value != 0) fault("a wide store that is not aligned");
  check_addressable(address, sizeof value);
  std::memcpy(address, &value, sizeof value);
}
inline void store_floats(float* address, float4 value) { store_wide(address, value); }
inline void store_words(void* address, uint4 value) { store_wide(address, value); }

inline float load_f16(uint16_t bits) { return f16_to_f32(bits); }

inline float fast_exp2(float x) {
  const float value = std::exp2(x);
  return value < 0x1p-126f ? 0.0f : value;
}

inline uint2 load_pair(const Shared<uint32_t>& words, int word) { return words.read_wide<uint2>(word); }
inline uint4 load_words(const Shared<uint32_t>& words, int word) { return words.read_wide<uint4>(word); }

}  // namespace spillway::emulation
