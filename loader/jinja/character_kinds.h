// Kinds of characters, as Python's str asks for them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spillway::jinja {

// Of one character, which may be a byte that is none (then all are false).
bool is_space(std::string_view character);
bool is_decimal(std::string_view character);  // a digit of some script's decimal numbers
bool is_digit(std::string_view character);    // decimals, and what else stands for a digit (superscripts, circled ones)
bool is_numeric(std::string_view character);  // those, and fractions, Roman and Chinese numerals
bool is_letter(std::string_view character);
bool is_alphanumeric(std::string_view character);
bool is_printable(std::string_view character);  // shown as it is by repr()

// 0 to 9, of a character that is a decimal.
int decimal_value(std::string_view character);

// Text that begins at its first character, with each decimal as an ASCII digit and without white space at its ends:
// what int() and float() read.
std::string plain_digits(std::string_view text);

}  // namespace spillway::jinja
