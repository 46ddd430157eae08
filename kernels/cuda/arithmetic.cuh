// Arithmetic shared by the kernels. Every sum has one order, whatever the launch: both compilers are told not to
// contract products and sums, fused multiply-adds are written out, and no library function is called whose last bit may
// differ. So the emulation gives the bits of the GPU.
#pragma once

#include "kernels/cuda/gpu.cuh"

namespace spillway::cuda {

constexpr int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Sum over the lanes that differ in bits [kLowest, kHighest] of their index; every one of them gets it.
template <int kHighest, int kLowest = 1>
__device__ __forceinline__ float lane_sum(float value) {
#pragma unroll
  for (int offset = kHighest; offset >= kLowest; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Sum over the kWarps warps of a thread block, known to all of them: lanes, then warps. warp_sums: kWarps floats that
// no thread reads or writes before the next barrier.
template <int kWarps>
__device__ __forceinline__ float block_sum(float value, Shared<float> warp_sums) {
  value = lane_sum<kWarpLanes / 2>(value);
  if (lane_index() == 0) warp_sums[warp_index()] = value;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) total += warp_sums[w];
  return total;
}

// The largest over lanes, as lane_sum; what is not a number is passed over.
template <int kHighest, int kLowest = 1>
__device__ __forceinline__ float lane_max(float value) {
#pragma unroll
  for (int offset = kHighest; offset >= kLowest; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

// As lane_sum for each of kCount values (a power of two), with about kCount shuffles instead of kCount * log2(lanes):
// at each step a lane hands half of its values to its partner and keeps the other half. The sum of index
// summed_index<kCount, kHighest>(lane) ends in values[0] and, while kCount exceeds the lanes, those after it in
// values[1], ... The tree of additions is lane_sum's for every kCount, so the bits are too.
template <int kCount, int kHighest, int kLowest = 1>
__device__ __forceinline__ void lane_sums(float* values, int lane) {
  if constexpr (kHighest >= kLowest) {
    if constexpr (kCount > 1) {
      constexpr int kHalf = kCount / 2;
      const bool upper = (lane & kHighest) != 0;
#pragma unroll
      for (int i = 0; i < kHalf; i++) {
        const float give = upper ? values[i] : values[i + kHalf];
        const float keep = upper ? values[i + kHalf] : values[i];
        values[i] = keep + __shfl_xor_sync(kAllLanes, give, kHighest);
      }
      lane_sums<kHalf, kHighest / 2, kLowest>(values, lane);
    } else {
      values[0] = lane_sum<kHighest, kLowest>(values[0]);
    }
  }
}

// Which of the kCount sums lane_sums left in this lane's values[0].
template <int kCount, int kHighest, int kLowest = 1>
__device__ __forceinline__ int summed_index(int lane) {
  if constexpr (kHighest >= kLowest && kCount > 1) {
    return ((lane & kHighest) != 0 ? kCount / 2 : 0) + summed_index<kCount / 2, kHighest / 2, kLowest>(lane);
  } else {
    return 0;
  }
}

// Whether this lane is the one of those holding the same sum that should write it.
template <int kCount, int kHighest, int kLowest = 1>
__device__ __forceinline__ bool writes_sum(int lane) {
  if constexpr (kHighest < kLowest) {
    return true;
  } else if constexpr (kCount > 1) {
    return writes_sum<kCount / 2, kHighest / 2, kLowest>(lane);
  } else {
    return (lane & (2 * kHighest - kLowest)) == 0;
  }
}

// e^x for x <= 0, within 2 units in the last place; 0 below -87.3 (where the result would be subnormal) and for
// -infinity.
__device__ __forceinline__ float exp_of_negative(float x) {
  if (!(x > -87.3f)) return x != x ? x : 0.0f;
  const float n = rintf(x * 1.44269504f);
  const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));  // x - n ln 2, |r| <= ln 2 / 2
  float p = 1.98412698e-4f;                                             // Taylor's terms to r^7
  p = fmaf(p, r, 1.38888889e-3f);
  p = fmaf(p, r, 8.33333333e-3f);
  p = fmaf(p, r, 4.16666667e-2f);
  p = fmaf(p, r, 1.66666667e-1f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  return p * float_from_bits(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

// x / (1 + e^-x), from the exponential of a number that is not positive.
__device__ __forceinline__ float silu(float x) {
  const float e = exp_of_negative(-fabsf(x));
  return (x < 0.0f ? x * e : x) / (1.0f + e);
}

}  // namespace spillway::cuda
