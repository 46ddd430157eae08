// {"Regex": ...} or {"String": ...}, as tokenizer.json writes what a step looks for.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

#include "loader/text/growth.h"
#include "loader/text/json_fields.h"
#include "loader/text/regex.h"

namespace spillway {

struct JsonPattern {
  std::shared_ptr<const Regex> regex;  // null: the literal
  std::string literal;                 // not empty where there is no regex
};

JsonPattern read_pattern(const JsonFields& step);
// A Metaspace's `replacement`, the one character that stands for a space.
std::string space_mark(const JsonFields& step);

// `text` with `content` in place of every match. Error(model) beginning with `where`, and nothing longer made, where
// there is no room; what is made is not charged for.
std::string replace_all(const JsonPattern& pattern, const std::string& content, std::string_view text, Growth& growth,
                        const std::string& where);

}  // namespace spillway
