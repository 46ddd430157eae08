// A Hugging Face model directory (config.json, safetensors with or without an index), read in place.
#pragma once

#include <string>

#include "loader/checkpoint.h"

namespace spillway {

// Tensors get the names that a GGUF of the same model has; what a file holds in one piece and the model reads in
// several (a fused projection) becomes several extents of it. Error(model) names the file.
Checkpoint open_hf_directory(const std::string& directory);

}  // namespace spillway
