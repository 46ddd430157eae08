// One case of a batch's input: all that is done with a file of lines that nobody knows.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// Reads the bytes line by line as `spillway batch` does, writes prompts with a template, and error lines, which must be
// results that a resumed job reads back. Returns how many lines are requests. Throws what the reader must not throw.
int try_batch_lines(std::span<const std::byte> bytes);

}  // namespace spillway
