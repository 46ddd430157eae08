// String literals, as Python reads them.
#include "loader/jinja/lexer.h"
#include "loader/text/unicode.h"

namespace spillway::jinja {
namespace {

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// A number of up to `most` digits at `at`, which moves past it; false when there are fewer than `least`.
bool number_at(std::string_view text, size_t& at, int base, size_t least, size_t most, uint32_t& number) {
  size_t end = at;
  number = 0;
  while (end < text.size() && end - at < most && digit_of(text[end]) < base) {
    number = number * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit_of(text[end++]));
  }
  if (end - at < least) return false;
  at = end;
  return true;
}

}  // namespace

std::string unescaped(std::string_view literal) {
  static constexpr std::string_view kFrom = "nrtabfv\\'\"", kTo = "\n\r\t\a\b\f\v\\'\"";
  std::string out;
  for (size_t at = 0; at < literal.size();) {
    if (literal[at] != '\\' || at + 1 == literal.size()) {
      out += literal[at++];
      continue;
    }
    const char c = literal[at + 1];
    at += 2;
    uint32_t point = 0;
    const size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') continue;
    if (hex > 0 && number_at(literal, at, 16, hex, hex, point) && point < 0x110000 && (point & ~0x7ffu) != 0xd800) {
      append_utf8(point, out);
    } else if (c >= '0' && c <= '7') {
      --at;
      number_at(literal, at, 8, 1, 3, point);
      append_utf8(point, out);
    } else if (const size_t found = kFrom.find(c); found != std::string_view::npos && hex == 0) {
      out += kTo[found];
    } else {
      out += {'\\', c};
    }
  }
  return out;
}

}  // namespace spillway::jinja
