#include "loader/jinja/number_reading.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "loader/jinja/character_kinds.h"

namespace spillway::jinja {
namespace {

constexpr const char* kTooLarge = "an integer beyond 64 bits";

// Without the underscores between digits; nothing where one stands elsewhere.
template <typename IsDigit>
std::optional<std::string> without_underscores(std::string_view text, const IsDigit& is_digit) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

bool ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool ascii_digit_or_letter(char c) { return ascii_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }

int base_of(char letter) {
  const int small = letter | 0x20;
  return small == 'x' ? 16 : small == 'o' ? 8 : small == 'b' ? 2 : 0;
}

bool take_sign(std::string_view& text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  return negative;
}

}  // namespace

std::optional<int64_t> read_integer(const Context& context, std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  const std::string plain = plain_digits(text);
  std::string_view digits = plain;
  const bool negative = take_sign(digits);
  const int prefix = digits.size() > 1 && digits[0] == '0' ? base_of(digits[1]) : 0;
  const bool leading_zero = base == 0 && prefix == 0 && digits.starts_with('0');
  if (base == 0) base = prefix != 0 ? prefix : 10;
  if (prefix != 0 && prefix == base) {
    digits.remove_prefix(2);
    if (digits.starts_with('_')) digits.remove_prefix(1);
  }
  const std::optional<std::string> clean = without_underscores(digits, ascii_digit_or_letter);
  // from_chars would take a second sign.
  if (!clean || clean->empty() || !ascii_digit_or_letter((*clean)[0])) return std::nullopt;
  const std::string signed_digits = (negative ? "-" : "") + *clean;
  const char* end = signed_digits.data() + signed_digits.size();
  int64_t number = 0;
  const auto result = std::from_chars(signed_digits.data(), end, number, static_cast<int>(base));
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) context.fail(kTooLarge);
  if (leading_zero && number != 0) return std::nullopt;  // 010, which was octal once
  return number;
}

std::optional<double> read_real(std::string_view text) {
  const std::string plain = plain_digits(text);
  const std::optional<std::string> clean = without_underscores(plain, ascii_digit);
  if (!clean) return std::nullopt;
  std::string_view digits = *clean;
  const bool negative = take_sign(digits);
  if (digits.empty() || digits[0] == '-' || digits.find('(') != std::string_view::npos) return std::nullopt;
  const char* end = digits.data() + digits.size();
  double number = 0;
  const auto result = std::from_chars(digits.data(), end, number);
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return std::nullopt;
  // Too large or too small: infinite or zero, as strtod has it.
  if (result.ec == std::errc::result_out_of_range) number = std::strtod(std::string(digits).c_str(), nullptr);
  return negative ? -number : number;
}

std::optional<int64_t> whole_part(const Context& context, double number) {
  if (!std::isfinite(number)) return std::nullopt;
  if (!(std::abs(number) < 0x1p63)) context.fail(kTooLarge);
  return static_cast<int64_t>(number);
}

}  // namespace spillway::jinja
