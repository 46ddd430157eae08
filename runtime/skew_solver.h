// From the sums of a layer to what its skew holds.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/calibration_sums.h"
#include "runtime/model.h"

namespace spillway {

struct SolvedLayer {
  // In the order and the layout of skew_tensors() (runtime/skew_file.h); no matrix where the model's own serves.
  std::vector<std::byte> matrix;
  std::vector<float> bias, keys, queries, mean, principal;
  // The ridge's strength, and the mean square that is left of queries where one half of the text foretells the other's,
  // over their variance: by the model's own matrix, and by the corrected one. Zeros where nothing was compared.
  float strength = 0;
  double gain_error = 0, ridge_error = 0;
};

// Uses the sums up. Of a few strengths the one that foretells best is taken, for each layer by itself: so how layers
// are grouped says nothing.
SolvedLayer solve_layer(const Model& model, int layer, LayerSums& sums);
// Of host memory, while a layer is solved.
uint64_t solving_bytes(const ModelShape& shape);

}  // namespace spillway
