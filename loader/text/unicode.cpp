#include "loader/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "loader/text/utf8.h"

namespace spillway {
namespace {

bool is_word(uint32_t point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

// The last character; nothing where the text does not end in a whole one.
std::string_view last_character(std::string_view text) {
  for (size_t bytes = 1; bytes <= std::min<size_t>(4, text.size()); ++bytes) {
    const std::string_view end = text.substr(text.size() - bytes);
    const Utf8Char first = first_utf8(end);
    if (first.step == Utf8Step::whole && first.bytes == bytes) return end;
  }
  return {};
}

std::string_view first_character(std::string_view text) {
  if (text.empty()) return {};
  const Utf8Char first = first_utf8(text);
  return first.step == Utf8Step::whole ? text.substr(0, first.bytes) : std::string_view();
}

// Marks into canonical order. (utf8proc's own way takes quadratic time in a run of marks.)
void order_marks(std::vector<utf8proc_int32_t>& points) {
  const auto mark = [](utf8proc_int32_t point) { return utf8proc_get_property(point)->combining_class; };
  for (size_t at = 0; at < points.size();) {
    if (mark(points[at]) == 0) {
      ++at;
      continue;
    }
    const size_t begin = at;
    while (at < points.size() && mark(points[at]) != 0) ++at;
    std::stable_sort(points.begin() + static_cast<ptrdiff_t>(begin), points.begin() + static_cast<ptrdiff_t>(at),
                     [&](auto a, auto b) { return mark(a) < mark(b); });
  }
}

}  // namespace

bool is_white(uint32_t point) {
  return (point >= 9 && point <= 13) || point == ' ' || point == 0x85 || point == 0xa0 || point == 0x1680 ||
         (point >= 0x2000 && point <= 0x200a) || point == 0x2028 || point == 0x2029 || point == 0x202f ||
         point == 0x205f || point == 0x3000;
}

uint32_t code_point(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])); };
  if (bytes.size() == 1) return byte(0);
  uint32_t point = byte(0) & (0x7fu >> bytes.size());
  for (size_t i = 1; i < bytes.size(); ++i) point = point << 6 | (byte(i) & 0x3f);
  return point;
}

void append_utf8(uint32_t point, std::string& out) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
  } else if (point < 0x10000) {
    out += {static_cast<char>(0xe0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 0x3f)),
            static_cast<char>(0x80 | (point & 0x3f))};
  } else {
    out += {static_cast<char>(0xf0 | point >> 18), static_cast<char>(0x80 | (point >> 12 & 0x3f)),
            static_cast<char>(0x80 | (point >> 6 & 0x3f)), static_cast<char>(0x80 | (point & 0x3f))};
  }
}

bool begins_with_word(std::string_view text) {
  const std::string_view first = first_character(text);
  return !first.empty() && is_word(code_point(first));
}

bool ends_in_word(std::string_view text) {
  const std::string_view last = last_character(text);
  return !last.empty() && is_word(code_point(last));
}

size_t white_begin(std::string_view text) {
  size_t bytes = 0;
  for (;;) {
    const std::string_view first = first_character(text.substr(bytes));
    if (first.empty() || !is_white(code_point(first))) return bytes;
    bytes += first.size();
  }
}

std::string_view without_white_end(std::string_view text) {
  for (;;) {
    const std::string_view last = last_character(text);
    if (last.empty() || !is_white(code_point(last))) return text;
    text.remove_suffix(last.size());
  }
}

std::string normalized(std::string_view text, NormalForm form) {
  // Below U+0300 every character is its own composed form.
  if (form == NormalForm::nfc &&
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xcc; }))
    return std::string(text);
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc;
  const auto decompose =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = first_character(text.substr(at));
    SPILLWAY_CHECK(!character.empty());
    utf8proc_int32_t parts[32];  // U+FDFA, the longest, has 18
    int boundary = UTF8PROC_BOUNDCLASS_START;
    const auto point = static_cast<utf8proc_int32_t>(code_point(character));
    const auto count = utf8proc_decompose_char(point, parts, std::size(parts), decompose, &boundary);
    SPILLWAY_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(std::size(parts)));
    points.insert(points.end(), parts, parts + count);
    at += character.size();
  }
  order_marks(points);
  if (composes && !points.empty()) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    const auto count = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
    SPILLWAY_CHECK(count >= 0);
    points.resize(static_cast<size_t>(count));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t point : points) append_utf8(static_cast<uint32_t>(point), out);
  return out;
}

std::string lowercase(std::string_view text) {
  constexpr uint32_t kDottedI = 0x130, kDotAbove = 0x307;
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = first_character(text.substr(at));
    SPILLWAY_CHECK(!character.empty());
    const uint32_t point = code_point(character);
    append_utf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point))), out);
    if (point == kDottedI) append_utf8(kDotAbove, out);  // the one character whose lower case is two
    at += character.size();
  }
  return out;
}

}  // namespace spillway
