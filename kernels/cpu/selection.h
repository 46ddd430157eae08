// Which granules a decode step attends to, on the CPU (kernels/selection.h): what needs no wide instructions.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/selection.h"

namespace spillway {

// A product of any size with the kernels' own, which hold a few rows of each side.
void float_product(const CpuKernels& kernels, const FloatProduct& product);

// Floats of `worker`: keys and partial keys of a page, and what a product wants.
constexpr int64_t partial_key_scratch_floats(int head_dim) {
  return int64_t{2} * kPageTokens * head_dim + float_scratch_floats();
}
// One KV head of a run.
void partial_keys(const CpuKernels& kernels, const KvFormat& kv, const PartialKeyFormat& format,
                  const PartialKeyBasis& basis, const PartialKeyRun& run, int head, float* worker);
// ids [choice.count] of weights [choice.granules].
void choose_granules(const float* weights, const GranuleChoice& choice, int32_t* ids);

}  // namespace spillway
