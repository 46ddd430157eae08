#include "apps/terminal_text.h"

#include <fmt/format.h>

#include "loader/tokenizer.h"

namespace spillway {

std::string terminal_text(std::string_view text) {
  Utf8Stream utf8;
  const std::string whole = utf8.push(text) + utf8.finish();
  std::string shown;
  for (size_t i = 0; i < whole.size(); ++i) {
    const auto byte = static_cast<unsigned char>(whole[i]);
    if (byte == '\n') {
      shown += "\\n";
    } else if (byte == '\t') {
      shown += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xc2 && i + 1 < whole.size() && static_cast<unsigned char>(whole[i + 1]) < 0xa0) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(whole[++i]));  // control characters of Latin 1
    } else {
      shown += whole[i];
    }
  }
  return shown;
}

std::string clip_text(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

}  // namespace spillway
