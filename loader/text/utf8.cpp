#include "loader/text/utf8.h"

#include "loader/tokenizer.h"

namespace spillway {

Utf8Char first_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8Step::whole, 1};
  if (lead < 0xc2 || lead > 0xf4) return {Utf8Step::broken, 1};
  const size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned lowest = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned highest = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < bytes; ++i) {
    if (i == text.size()) return {Utf8Step::unfinished, i};
    const bool fits = i == 1 ? byte(i) >= lowest && byte(i) <= highest : (byte(i) & 0xc0) == 0x80;
    if (!fits) return {Utf8Step::broken, i};
  }
  return {Utf8Step::whole, bytes};
}

namespace {
constexpr const char* kReplacement = "\xef\xbf\xbd";
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Char next = first_utf8(std::string_view(pending_).substr(at));
    if (next.step == Utf8Step::unfinished) break;
    if (next.step == Utf8Step::whole) {
      out.append(pending_, at, next.bytes);
    } else {
      out += kReplacement;
    }
    at += next.bytes;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::finish() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? kReplacement : "";
}

}  // namespace spillway
