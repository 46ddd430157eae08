// One case of the fuzzer of files that Spillway keeps for itself.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// The first byte says which: 'm' a machine's measures (machine.json), 'j' the record of a batch (OUT.journal), 'r' such
// a record, a zero, and the output that it lies beside. Reads it, uses it, writes it, and reads it again: it is the
// same then. Returns true when it was understood. Throws only what must not be thrown: anything but Error(usage).
bool try_cache_file(std::span<const std::byte> bytes);

}  // namespace spillway
