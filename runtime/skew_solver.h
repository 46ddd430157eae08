// From the sums of a layer to what its skew holds.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/calibration_sums.h"
#include "runtime/model.h"

namespace spillway {

// In the order and the layout of skew_tensors() (runtime/skew_file.h).
struct SolvedLayer {
  std::vector<std::byte> matrix;  // empty where the model's own serves
  std::vector<float> bias, keys, queries, mean, principal;
};

// Errors of queries that one half of the text foretells for the other, over their variance; ridges in the order of
// kStrengths, then the model's own matrix. Empty where there is nothing to compare.
inline constexpr float kStrengths[] = {0.03f, 0.1f, 0.3f, 1.0f};
std::vector<double> validate_layer(const Model& model, int layer, const LayerSums& sums);

// Uses the sums up.
SolvedLayer solve_layer(const Model& model, int layer, LayerSums& sums, float strength);
// Of host memory, while a layer is solved.
uint64_t solving_bytes(const ModelShape& shape);

}  // namespace spillway
