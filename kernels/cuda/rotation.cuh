// Rotary position embedding (arXiv 2104.09864) of the pairs of a head. table: cos and sin of pair 0, of pair 1, ...
#pragma once

#include "kernels/cuda/gpu.cuh"

namespace spillway::cuda {

__device__ __forceinline__ float first_turned(float a, float b, const float* table, int pair) {
  return a * table[2 * pair] - b * table[2 * pair + 1];
}
__device__ __forceinline__ float second_turned(float a, float b, const float* table, int pair) {
  return a * table[2 * pair + 1] + b * table[2 * pair];
}

__device__ __forceinline__ void turn_pair(float* head, const float* table, int pair, int pairs, bool halves) {
  const int first = halves ? pair : 2 * pair;
  const int second = halves ? pair + pairs : 2 * pair + 1;
  const float a = head[first];
  const float b = head[second];
  head[first] = first_turned(a, b, table, pair);
  head[second] = second_turned(a, b, table, pair);
}

// Element i of a head, turned.
__device__ __forceinline__ float turned(const float* head, const float* table, int i, int pairs, bool halves) {
  if (i >= 2 * pairs) return head[i];
  if (halves) {
    return i < pairs ? first_turned(head[i], head[i + pairs], table, i)
                     : second_turned(head[i - pairs], head[i], table, i - pairs);
  }
  return i % 2 == 0 ? first_turned(head[i], head[i + 1], table, i / 2)
                    : second_turned(head[i - 1], head[i], table, i / 2);
}

}  // namespace spillway::cuda
