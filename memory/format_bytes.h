// Amounts as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace spillway {

// "512 B", "1.5 GiB", "800 MiB": three significant digits at least, binary units.
std::string format_bytes(uint64_t bytes);
// The same beside `other`: where both would read alike, "1.5 GiB (1610612999 bytes)".
std::string format_bytes_beside(uint64_t bytes, uint64_t other);
// "750 MB/s", "23.1 GB/s": speeds of links and drives are given in powers of ten, as their makers do.
std::string format_speed(double bytes_per_second);

}  // namespace spillway
