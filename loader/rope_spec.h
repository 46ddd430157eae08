// RopeSpec: the frequencies of rotary position embedding (RoPE, arXiv 2104.09864, section 3.2.2), with what the
// long-context variants make of them.
#pragma once

#include <vector>

#include "loader/model_keys.h"
#include "loader/tensor_taker.h"

namespace spillway {

struct RopeSpec {
  std::vector<double> frequencies;       // radians per position, one for each pair of elements
  std::vector<double> long_frequencies;  // in a context of more than original_context positions; empty: the same
  int original_context = 0;
  double magnitude = 1.0;  // factor of cosines and sines (the attention factor of YaRN and LongRoPE)
};

// dims: leading elements of a head that are rotated. Known scalings (FAMILY.rope.scaling.type): none; linear (arXiv
// 2306.15595); llama3 (as its reference code); yarn (arXiv 2309.00071); longrope (arXiv 2402.13753); and a tensor of
// factors (rope_freqs.weight) that divides the frequencies. Error(model) names another one and lists these.
RopeSpec read_rope(const ModelKeys& keys, TensorTaker& take, double base, int dims);
// Without any scaling.
RopeSpec plain_rope(double base, int dims);

}  // namespace spillway
