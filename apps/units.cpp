#include "apps/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/check.h"

namespace spillway {
namespace {

struct Unit {
  std::string_view name;  // lower case
  uint64_t bytes;
};

constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", 1ull << 10},
    {"kib", 1ull << 10},
    {"m", 1ull << 20},
    {"mib", 1ull << 20},
    {"g", 1ull << 30},
    {"gib", 1ull << 30},
    {"t", 1ull << 40},
    {"tib", 1ull << 40},
    {"kb", 1000},
    {"mb", 1000'000},
    {"gb", 1000'000'000},
    {"tb", 1000'000'000'000},
};

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

[[noreturn]] void refuse(std::string_view flag, std::string_view text, std::string_view why) {
  throw Error(ErrorKind::usage,
              fmt::format("{}: '{}' {}; write bytes with a unit (6GiB, 800MiB) or a share (80%)", flag, text, why));
}

// The number at the front of `rest`, which moves past it: digits with at most one point.
std::string_view take_number(std::string_view& rest) {
  size_t end = 0;
  bool point = false;
  while (end < rest.size() && ((rest[end] >= '0' && rest[end] <= '9') || (rest[end] == '.' && !point))) {
    point = point || rest[end] == '.';
    ++end;
  }
  const std::string_view number = rest.substr(0, end);
  rest.remove_prefix(end);
  return number;
}

}  // namespace

uint64_t parse_bytes(std::string_view flag, std::string_view text, std::optional<uint64_t> total) {
  std::string_view rest = trimmed(text);
  const std::string_view digits = take_number(rest);
  if (digits.find_first_not_of('.') == std::string_view::npos) refuse(flag, text, "is not an amount of memory");
  double number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number, std::chars_format::fixed);
  std::string unit(trimmed(rest));
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });

  if (unit == "%") {
    if (number > 100) refuse(flag, text, "is more than all there is");
    if (!total) refuse(flag, text, "is a share, but the whole is not known here");
    return static_cast<uint64_t>(static_cast<long double>(*total) * number / 100);
  }
  const Unit* found = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& u) { return u.name == unit; });
  if (found == std::end(kUnits)) refuse(flag, text, fmt::format("has the unknown unit '{}'", trimmed(rest)));
  // Beyond 2^53 whole numbers must not pass through a double.
  uint64_t whole = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
  uint64_t bytes = 0;
  if (parsed.ptr == digits.data() + digits.size()) {
    if (parsed.ec != std::errc{} || __builtin_mul_overflow(whole, found->bytes, &bytes)) {
      refuse(flag, text, "is more than 16 EiB");
    }
    return bytes;
  }
  const long double product = static_cast<long double>(number) * found->bytes;
  if (product >= 18446744073709551616.0L) refuse(flag, text, "is more than 16 EiB");
  return static_cast<uint64_t>(product);
}

}  // namespace spillway
