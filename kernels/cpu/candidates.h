// The likeliest tokens of a row of logits on the CPU.
#pragma once

#include <cstdint>
#include <span>

namespace spillway {

// logits[id] of each of `ids`, which differ, divided by `penalty` where it is positive, else multiplied (arXiv
// 1909.05858).
void penalise(std::span<float> logits, std::span<const int32_t> ids, float penalty);
// out [candidate_floats(k)] (kernels/ops.h) of logits [at least k].
void choose_candidates(std::span<const float> logits, int k, float* out);

}  // namespace spillway
