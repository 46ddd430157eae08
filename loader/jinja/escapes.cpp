// String literals, as Python reads them.
#include <fmt/format.h>

#include "loader/jinja/lexer.h"
#include "loader/text/message_text.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

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

std::string named_escape(std::string_view literal) {
  const size_t end = literal.find('}');
  return fmt::format("the escape {}", message_text(literal.substr(0, end == std::string_view::npos ? 2 : end + 1)));
}

// Of the character at the beginning of a text; 0 where there is none.
size_t whole_bytes(std::string_view text) {
  const Utf8Char first = first_utf8(text);
  return first.step == Utf8Step::whole ? first.bytes : 0;
}

std::string escape_of(uint32_t point) {
  return point < 0x100     ? fmt::format("x{:02x}", point)
         : point < 0x10000 ? fmt::format("u{:04x}", point)
                           : fmt::format("U{:08x}", point);
}

}  // namespace

std::string unescaped(std::string_view literal, const std::string& name, int line) {
  static constexpr std::string_view kFrom = "nrtabfv\\'\"", kTo = "\n\r\t\a\b\f\v\\'\"";
  std::string out;
  for (size_t at = 0; at < literal.size();) {
    if (literal[at] != '\\' || at + 1 == literal.size()) {
      out += literal[at++];
      continue;
    }
    const size_t begin = at;
    const char c = literal[at + 1];
    at += 2;
    uint32_t point = 0;
    const size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') continue;
    if (c == 'N') refuse(name, line, named_escape(literal.substr(begin)));
    if (hex > 0) {
      const bool whole = number_at(literal, at, 16, hex, hex, point);
      const std::string escape = message_text(literal.substr(begin, whole ? at - begin : hex + 2), 16);
      if (!whole) malformed(name, line, fmt::format("the escape {} needs {} digits", escape, hex));
      if (point >= 0x110000) malformed(name, line, fmt::format("the escape {} is no character", escape));
      if ((point & ~0x7ffu) == 0xd800) refuse(name, line, fmt::format("half a character ({})", escape));
      append_utf8(point, out);
    } else if (c >= '0' && c <= '7') {
      --at;
      number_at(literal, at, 8, 1, 3, point);
      append_utf8(point, out);
    } else if (const size_t found = kFrom.find(c); found != std::string_view::npos) {
      out += kTo[found];
    } else if (const size_t bytes = whole_bytes(literal.substr(begin + 1)); bytes > 1) {
      // Jinja writes what is not ASCII as an escape before it reads escapes, and here its backslash is taken.
      at = begin + 1 + bytes;
      out += "\\" + escape_of(code_point(literal.substr(begin + 1, bytes)));
    } else {
      out += {'\\', c};
    }
  }
  return out;
}

}  // namespace spillway::jinja
