// {"Regex": ...} or {"String": ...}, as tokenizer.json writes what a step looks for.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

#include "loader/text/json_fields.h"
#include "loader/text/regex.h"

namespace spillway {

struct JsonPattern {
  std::shared_ptr<const Regex> regex;  // null: the literal
  std::string literal;                 // not empty where there is no regex
};

inline JsonPattern read_pattern(const JsonFields& step) {
  const JsonFields pattern(step.value("pattern"), fmt::format("{}, pattern", step.where()));
  if (!pattern.value("Regex").is_null()) {
    return {std::make_shared<const Regex>(pattern.text("Regex", ""), pattern.where()), ""};
  }
  JsonPattern result{nullptr, pattern.text("String", "")};
  if (result.literal.empty()) pattern.refuse("is neither a Regex nor a String");
  return result;
}

}  // namespace spillway
