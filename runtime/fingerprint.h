// Fingerprint: whether a model's files are those of another day, told without reading them whole.
#pragma once

#include <string>

#include "loader/checkpoint.h"

namespace spillway {

// 16 hexadecimal digits (XXH3) over where every tensor lies, its type and shape, the sizes of the files, and a sample
// of each file's bytes. Where the files lie and what they are called does not count. Throws Error(io) when the drive
// fails.
std::string fingerprint(const Checkpoint& checkpoint);

}  // namespace spillway
