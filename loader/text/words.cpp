#include "loader/text/words.h"

namespace spillway {
namespace {

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (;;) {
    const size_t found = text.find(from);
    out += text.substr(0, found);
    if (found == std::string_view::npos) return out;
    out += to;
    text.remove_prefix(found + from.size());
  }
}

// Where the next word of a marked text begins, after the marks and the word at `at`.
size_t word_end(std::string_view text, size_t at) {
  while (text.compare(at, kSpaceMark.size(), kSpaceMark) == 0) at += kSpaceMark.size();
  const size_t next = text.find(kSpaceMark, at);
  return next == std::string_view::npos ? text.size() : next;
}

}  // namespace

std::string marked(std::string_view text) { return replaced(text, " ", kSpaceMark); }
std::string unmarked(std::string_view text) { return replaced(text, kSpaceMark, " "); }

int byte_of_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return -1;
  int byte = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    byte = byte * 16 + digit;
  }
  return byte;
}

bool mark_inside(std::string_view piece) { return word_end(piece, 0) != piece.size(); }

void split_words(std::string_view text, std::vector<std::string_view>& words) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = word_end(text, at);
    words.push_back(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace spillway
