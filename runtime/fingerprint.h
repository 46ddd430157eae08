// Fingerprint: whether a model is that of another day, told without reading its files whole.
#pragma once

#include <string>

#include "loader/checkpoint.h"

namespace spillway {

// 16 hexadecimal digits (XXH3) of the model's facts, of name, type, shape and samples of all its tensors, and of the
// sizes of its files. What these are called, where they lie, and what they say of tokens or of their making does not
// count. Throws Error(io)
// when the drive fails.
std::string fingerprint(const Checkpoint& checkpoint);

}  // namespace spillway
