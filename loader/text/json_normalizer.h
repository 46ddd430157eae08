// The normalizer of a tokenizer.json: what is done to a text before it is cut up.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "loader/text/json_fields.h"

namespace spillway {

class JsonNormalizer {
 public:
  // `object`: null for none. Error(model) begins with `where` and names an unknown step with the list of known ones.
  JsonNormalizer(const nlohmann::json& object, const std::string& where);

  // Of well-formed UTF-8.
  std::string apply(std::string text) const;

 private:
  void add(const JsonFields& step, int depth);

  std::vector<std::function<std::string(std::string)>> steps_;
};

}  // namespace spillway
