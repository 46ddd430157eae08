// One case of the GGUF reader: all that the loader does with a file it does not know.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// Lays the bytes into memory as a file, opens it and reads model, tokenizer and chat template from it. After a '2' they
// are two parts of a model, of as many bytes each. Returns true when it could be opened. Throws only what the loader
// must not throw: anything but Error(model), and where a tensor lies outside its file.
bool try_gguf(std::span<const std::byte> bytes);

}  // namespace spillway
