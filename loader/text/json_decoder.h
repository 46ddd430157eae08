// The decoder of a tokenizer.json, token by token: which bytes a token stands for.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "loader/text/json_pattern.h"

namespace spillway {

class JsonDecoder {
 public:
  // `object`: null for none. Error(model) begins with `where` and names an unknown step with the list of known ones.
  JsonDecoder(const nlohmann::json& object, const std::string& where);

  // Error(model) where the steps make more of it than `growth` has room for.
  std::string bytes(std::string_view token, Growth& growth) const;
  // Whether a text's first space is the tokenizer's own.
  bool drops_first_space() const { return drops_first_space_; }

 private:
  void add(const JsonFields& step, int depth);

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool drops_first_space_ = false;
  std::vector<std::pair<JsonPattern, std::string>> replacements_;  // literals
  std::string where_;
};

}  // namespace spillway
