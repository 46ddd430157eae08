// Activation functions, as activate.cu and the experts use them.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/shape.h"

namespace spillway::cuda {

// x / (1 + e^-y).
__device__ __forceinline__ float times_sigmoid(float x, float y) {
  const float e = exp_of_negative(-fabsf(y));
  return (y < 0.0f ? x * e : x) / (1.0f + e);
}

template <Activation kKind>
__device__ __forceinline__ float activated(float x) {
  if constexpr (kKind == Activation::silu) return silu(x);
  if constexpr (kKind == Activation::relu) return x < 0.0f ? 0.0f : x;
  // x / 2 * (1 + tanh(u)) = x / (1 + e^(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
  return times_sigmoid(x, (x + 0.044715f * (x * x * x)) * 1.59576912f);
}

}  // namespace spillway::cuda
