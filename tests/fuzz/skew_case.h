// One case of the fuzzer of skews.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// Opens the bytes as the skew of a model of three layers and takes from it all that a rehearsal takes. Returns true
// when it could be opened. Throws only what must not be thrown: anything but Error(model), and where a value is not
// finite.
bool try_skew(std::span<const std::byte> bytes);

}  // namespace spillway
