#include "loader/text/message_text.h"

#include <fmt/format.h>

#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway {
namespace {

bool is_control(uint32_t point) {
  const bool breaks_line = point == 0x2028 || point == 0x2029;
  const bool turns = (point >= 0x202a && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069);
  return point < 0x20 || (point >= 0x7f && point < 0xa0) || breaks_line || turns;
}

}  // namespace

std::string message_text(std::string_view text, size_t most_bytes) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = first_utf8(text.substr(at));
    if (at + next.bytes > most_bytes) return out + "...";
    const std::string_view character = text.substr(at, next.bytes);
    const uint32_t point = next.step == Utf8Step::whole ? code_point(character) : 0;
    at += next.bytes;
    if (next.step != Utf8Step::whole) {
      for (const char byte : character) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    } else if (is_control(point)) {
      out += point < 0x100 ? fmt::format("\\x{:02x}", point) : fmt::format("\\u{:04x}", point);
    } else {
      out += character;
    }
  }
  return out;
}

}  // namespace spillway
