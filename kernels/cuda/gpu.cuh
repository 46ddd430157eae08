// The hardware, and the only way to it: kernels speak CUDA C++ (threadIdx, __syncthreads, __shfl_xor_sync ...), and
// what CUDA C++ has no plain word for is named here. One source, two targets: nvcc for the GPU, and any C++20 compiler
// for the emulation the tests run, which needs no CUDA header. There SPILLWAY_CUDA_EMULATED is the header that stands
// in for CUDA's own; it is named on the command line, so that the kernels know of no test.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef SPILLWAY_CUDA_EMULATED
#include SPILLWAY_CUDA_EMULATED
#else
#include <cuda_runtime.h>
#include <dlfcn.h>
#endif

#include "kernels/blocks.h"

namespace spillway::cuda {

inline constexpr int kWarpLanes = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

#ifdef SPILLWAY_CUDA_EMULATED

using namespace emulation;
inline constexpr bool kEmulated = true;

#else

inline constexpr bool kEmulated = false;

// An array in shared memory, or a part of one. A plain pointer here; the emulation checks each access through it.
template <typename T>
using Shared = T*;

// Shared memory of a fixed size: SPILLWAY_SHARED(float, partial, 32);
#define SPILLWAY_SHARED(type, name, count) __shared__ __align__(16) type name[count]

// Shared memory of the size given at launch: `count` elements from byte `offset` on.
template <typename T>
__device__ __forceinline__ Shared<T> dynamic_shared(int offset, int /*count*/) {
  extern __shared__ __align__(16) unsigned char dynamic_bytes[];
  return reinterpret_cast<T*>(dynamic_bytes + offset);
}

// 16 bytes of shared memory at once; `word` is a multiple of 4.
__device__ __forceinline__ void store_words(Shared<uint32_t> words, int word, uint4 value) {
  *reinterpret_cast<uint4*>(words + word) = value;
}

// Four floats of shared memory at once; `index` is a multiple of 4.
__device__ __forceinline__ float4 load_floats(Shared<float> floats, int index) {
  return *reinterpret_cast<const float4*>(floats + index);
}
__device__ __forceinline__ void store_floats(Shared<float> floats, int index, float4 value) {
  *reinterpret_cast<float4*>(floats + index) = value;
}

// 16 aligned bytes that this kernel reads once and nobody writes meanwhile: past the first-level cache, so that what is
// read again stays there.
__device__ __forceinline__ uint4 load_stream(const void* address) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address));
  return v;
}

// The same of 8 bytes.
__device__ __forceinline__ uint2 load_pair(const uint2* address) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(address));
  return v;
}

// 16 aligned bytes that other warps read too, and nobody writes meanwhile.
__device__ __forceinline__ uint4 load_cached(const void* address) { return __ldg(static_cast<const uint4*>(address)); }
__device__ __forceinline__ float4 load_floats(const float* address) {
  return __ldg(reinterpret_cast<const float4*>(address));
}

__device__ __forceinline__ void store_floats(float* address, float4 value) {
  *reinterpret_cast<float4*>(address) = value;
}
__device__ __forceinline__ void store_words(void* address, uint4 value) { *static_cast<uint4*>(address) = value; }

// One instruction for f16_to_f32; the same value for every finite number and infinity.
__device__ __forceinline__ float load_f16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// A shared library of CUDA's, opened when it is wanted, for the rest of the process; null where it is not there.
inline void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
inline void* find_symbol(void* library, const char* name) { return dlsym(library, name); }

// 2^x within 2 units in the last place; 0 where that would be subnormal. One instruction, whose last bits are the
// hardware's own: for where tensor cores round in their own way too.
__device__ __forceinline__ float fast_exp2(float x) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
  return value;
}

// Enqueues a kernel; the result is for cudaGetErrorString.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
                   Arguments... arguments) {
  const auto enqueue = [&](Parameters... parameters) {
    void* pointers[] = {&parameters...};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, dynamic_bytes, stream);
  };
  return enqueue(arguments...);
}

#endif

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarpLanes; }

}  // namespace spillway::cuda

#ifndef SPILLWAY_CUDA_EMULATED
#include "kernels/cuda/tensor_cores.cuh"
#endif
