// Numbers out of texts, as Python's int() and float() read them: white space around, any script's decimals, 1_000.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "loader/jinja/context.h"

namespace spillway::jinja {

// int(text, base), with base 0 (by prefix) or 2 to 36; nothing where Python raises ValueError. Error(model) beyond 64
// bits.
std::optional<int64_t> read_integer(const Context& context, std::string_view text, int64_t base);
std::optional<double> read_real(std::string_view text);
// What is left of a number without its fraction, as int() takes it; nothing where it is not finite. Error(model) beyond
// 64 bits.
std::optional<int64_t> whole_part(const Context& context, double number);

}  // namespace spillway::jinja
