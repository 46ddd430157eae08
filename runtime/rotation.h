// The angles of rotary position embedding (RoPE, arXiv 2104.09864, eq. 15).
#pragma once

#include <vector>

#include "kernels/shape.h"

namespace spillway {

class Rotation {
 public:
  // factors: divides each pair's frequency (rope_freqs of a GGUF); empty: none.
  Rotation(const ModelShape& shape, const std::vector<float>& factors);
  // table [count x rope_dims]: cos and sin of each pair, of positions first, first + 1, ...; computed in double.
  void fill(int first, int count, float* table) const;

 private:
  std::vector<double> frequency_;  // radians per position, one for each pair
};

}  // namespace spillway
