// A case of several files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace spillway {

// The bytes before each zero and after the last, cut at most `most` - 1 times; empty parts follow until there are as
// many.
inline std::vector<std::span<const std::byte>> parts_of(std::span<const std::byte> bytes, size_t most) {
  std::vector<std::span<const std::byte>> parts;
  while (parts.size() + 1 < most) {
    const auto zero = std::find(bytes.begin(), bytes.end(), std::byte{0});
    const auto length = static_cast<size_t>(zero - bytes.begin());
    parts.push_back(bytes.first(length));
    bytes = bytes.subspan(std::min(length + 1, bytes.size()));
  }
  parts.push_back(bytes);
  return parts;
}

}  // namespace spillway
