// Names out of a file, made fit for a message: nothing in them moves the cursor or fills the screen.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace spillway {

// Bytes outside printable ASCII as \xNN; what is longer than 96 bytes ends in "...".
inline std::string printable(std::string_view text) {
  constexpr size_t kLongest = 96;
  std::string result;
  for (const char c : text.substr(0, kLongest)) {
    if (c >= 0x20 && c < 0x7f) {
      result += c;
    } else {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      result += hex;
    }
  }
  return text.size() > kLongest ? result + "..." : result;
}

}  // namespace spillway
