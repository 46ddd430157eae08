// Amounts of memory as flags take them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spillway {

// "6GiB", "800MiB", "1.5G", "4096", or a share "80%" of `total`. KiB, MiB, GiB, TiB and their short forms K, M, G, T
// are powers of 1024; KB, MB, GB, TB are powers of 1000; case and a space before the unit do not matter. Throws
// Error(usage) naming `flag`; a share where no total is known is refused too.
uint64_t parse_bytes(std::string_view flag, std::string_view text, std::optional<uint64_t> total = {});

}  // namespace spillway
