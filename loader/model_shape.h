// The sizes of a model, from the facts of its checkpoint.
#pragma once

#include "kernels/shape.h"
#include "loader/family.h"
#include "loader/model_keys.h"

namespace spillway {

// Error(model) names the key that is missing, out of range or at odds with another.
ModelShape read_model_shape(const ModelKeys& keys, const Family& family);

}  // namespace spillway
