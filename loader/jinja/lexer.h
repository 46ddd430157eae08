// Tokens of a template, with white space taken as Hugging Face's transformers have it taken: trim_blocks (the line
// break after a block goes) and lstrip_blocks (the spaces before one go).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spillway::jinja {

enum class TokenKind {
  text,         // outside of all tags
  block_begin,  // {%
  block_end,
  print_begin,  // {{
  print_end,
  name,
  string,   // its meaning, escapes read
  integer,  // with its 0x, 0o or 0b
  real,
  sign,  // an operator or bracket
  end,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

// Where a template is not understood: Error(model) with its name, the line, and the way out.
[[noreturn]] void refuse(const std::string& name, int line, const std::string& what);
// Where a template breaks the language's own rules, likewise: Error(model).
[[noreturn]] void malformed(const std::string& name, int line, const std::string& what);

// Ends in a token `end`. Error(model) names the line.
std::vector<Token> tokenise(std::string_view source, const std::string& name);

// A string literal's meaning, as Python reads escapes. Error(model) names the line, like the above.
std::string unescaped(std::string_view literal, const std::string& name, int line);

}  // namespace spillway::jinja
