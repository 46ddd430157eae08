// The angles of rotary position embedding (RoPE, arXiv 2104.09864, eq. 15).
#pragma once

#include <vector>

#include "loader/rope_spec.h"

namespace spillway {

class Rotation {
 public:
  // context: positions that are planned for; a longer one than the model was trained for may turn by other frequencies.
  Rotation(const RopeSpec& rope, int context);
  // table [count x rope_dims]: cos and sin of each pair, of positions first, first + 1, ...; computed in double.
  void fill(int first, int count, float* table) const;

 private:
  const std::vector<double> frequency_;  // radians per position, one for each pair
  const double magnitude_;
};

}  // namespace spillway
