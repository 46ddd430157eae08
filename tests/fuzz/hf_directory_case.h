// One case of the fuzzer of Hugging Face model directories.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// The bytes are config.json, a zero, model.safetensors.index.json, a zero, and the weights: without an index those of
// model.safetensors; with one their halves are model-0000N-of-00002.safetensors. Opens the directory as the loader does
// and reads the model's spec. Returns true when it could be read. Throws only what the loader must not throw: anything
// but Error(model), and where a tensor lies outside its file.
bool try_hf_directory(std::span<const std::byte> bytes);

}  // namespace spillway
