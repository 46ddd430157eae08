// Cuts a model's matrices into weight units: blocks of rows, in the order a pass reads them.
#pragma once

#include <cstdint>
#include <vector>

#include "loader/model_spec.h"
#include "memory/weight_unit.h"

namespace spillway {

// No unit is larger than about unit_bytes (a unit has at least 16 rows of each of its matrices). The cut does not
// change any result: a row of an output depends on its own row of the weight alone. Experts are not among them.
std::vector<WeightUnit> cut_weight_units(const ModelSpec& spec, const Checkpoint& checkpoint, uint64_t unit_bytes);

// Each expert of each layer is a unit of its own, whole: gate, up and down (slices 0, 1, 2). The layers in order, and
// the experts of a layer.
std::vector<WeightUnit> cut_expert_units(const ModelSpec& spec, const Checkpoint& checkpoint);

}  // namespace spillway
