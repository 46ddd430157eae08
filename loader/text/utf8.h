// UTF-8, one character at a time (Unicode 15, section 3.9, table 3-7).
#pragma once

#include <cstddef>
#include <string_view>

namespace spillway {

enum class Utf8Step {
  whole,       // a well-formed character
  broken,      // bytes that begin no character: the maximal part that could have begun one, at least one byte
  unfinished,  // the text ends inside a character that is well-formed so far
};

struct Utf8Char {
  Utf8Step step;
  size_t bytes;
};

// The first character of `text`, which is not empty.
Utf8Char first_utf8(std::string_view text);

}  // namespace spillway
