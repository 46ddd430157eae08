// Texts as Python's str handles them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spillway::jinja {

// Without the characters of `set` at its ends; without white space where `set` is null.
std::string_view stripped(std::string_view text, const std::string* set, bool left, bool right);
// At every `separator`, which is not empty, at most `most` times (-1: always).
std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, int64_t most,
                                       bool from_right);
// At runs of white space, without empty parts.
std::vector<std::string_view> split_white(std::string_view text, int64_t most, bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// `from` as `to`, at most `most` times (-1: always).
std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t most);

}  // namespace spillway::jinja
