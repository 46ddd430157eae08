#include "loader/jinja/character_kinds.h"

#include <utf8proc.h>

#include <algorithm>

#include "loader/jinja/context.h"
#include "loader/jinja/python_text.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

// Numeric_Type=Digit but no decimal, and Numeric_Type=Numeric but a letter (Unicode 14, DerivedNumericType.txt):
// utf8proc and PCRE2 know categories, and not this property.
constexpr uint32_t kDigits[][2] = {{0xb2, 0xb3},       {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},
                                   {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
                                   {0x2474, 0x247c},   {0x2488, 0x2490},   {0x24ea, 0x24ea},   {0x24f5, 0x24fd},
                                   {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},   {0x278a, 0x2792},
                                   {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a}};
constexpr std::u32string_view kNumerals =
    U"\u3405\u3483\u382a\u3b4d\u4e00\u4e03\u4e07\u4e09\u4e5d\u4e8c\u4e94\u4e96\u4ebf\u4ec0\u4edf\u4ee8\u4f0d\u4f70"
    U"\u5104\u5146\u5169\u516b\u516d\u5341\u5343\u5344\u5345\u534c\u53c1\u53c2\u53c3\u53c4\u56db\u58f1\u58f9\u5e7a"
    U"\u5efe\u5eff\u5f0c\u5f0d\u5f0e\u5f10\u62fe\u634c\u67d2\u6f06\u7396\u767e\u8086\u842c\u8cae\u8cb3\u8d30\u9621"
    U"\u9646\u964c\u9678\u96f6\uf96b\uf973\uf978\uf9b2\uf9d1\uf9d3\uf9fd\U00020001\U00020064\U000200e2\U00020121"
    U"\U0002092a\U00020983\U0002098c\U0002099c\U00020aea\U00020afd\U00020b19\U00022390\U00022998\U00023b1b\U0002626d"
    U"\U0002f890";

bool whole(std::string_view character) { return first_utf8(character).step == Utf8Step::whole; }

utf8proc_category_t category(uint32_t point) { return utf8proc_category(static_cast<utf8proc_int32_t>(point)); }

bool is_decimal_point(uint32_t point) { return category(point) == UTF8PROC_CATEGORY_ND; }

bool in_digits(uint32_t point) {
  return std::any_of(std::begin(kDigits), std::end(kDigits),
                     [&](const auto& run) { return point >= run[0] && point <= run[1]; });
}

}  // namespace

bool is_space(std::string_view character) {
  if (!whole(character)) return false;
  const uint32_t point = code_point(character);
  return is_white(point) || (point >= 0x1c && point <= 0x1f);
}

bool is_decimal(std::string_view character) { return whole(character) && is_decimal_point(code_point(character)); }

bool is_digit(std::string_view character) {
  return is_decimal(character) || (whole(character) && in_digits(code_point(character)));
}

bool is_numeric(std::string_view character) {
  if (!whole(character)) return false;
  const uint32_t point = code_point(character);
  const utf8proc_category_t kind = category(point);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO ||
         std::binary_search(kNumerals.begin(), kNumerals.end(), static_cast<char32_t>(point));
}

bool is_letter(std::string_view character) {
  if (!whole(character)) return false;
  const utf8proc_category_t kind = category(code_point(character));
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_alphanumeric(std::string_view character) { return is_letter(character) || is_numeric(character); }

bool is_printable(std::string_view character) {
  if (!whole(character)) return false;
  const uint32_t point = code_point(character);
  switch (category(point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return point == ' ';
    default:
      return true;
  }
}

// Decimals come in runs of ten, in order (Unicode 15, section 4.6), some of them one behind the other.
int decimal_value(std::string_view character) {
  const uint32_t point = code_point(character);
  uint32_t first = point;
  while (first > 0 && is_decimal_point(first - 1)) --first;
  return static_cast<int>((point - first) % 10);
}

std::string plain_digits(std::string_view text) {
  std::string out;
  for (const std::string_view character : characters(stripped(text, nullptr, true, true))) {
    if (is_decimal(character)) {
      out += static_cast<char>('0' + decimal_value(character));
    } else {
      out += character;
    }
  }
  return out;
}

}  // namespace spillway::jinja
