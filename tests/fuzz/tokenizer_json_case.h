// One case of tokenizer.json: all that the loader does with one it does not know.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// Lays the bytes into a folder as tokenizer.json, opens it, and tokenises texts. Returns true when it could be opened.
// Throws only what the loader must not throw: anything but Error(model).
bool try_tokenizer_json(std::span<const std::byte> bytes);

}  // namespace spillway
