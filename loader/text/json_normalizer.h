// The normalizer of a tokenizer.json: what is done to a text before it is cut up.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "loader/text/growth.h"
#include "loader/text/json_fields.h"

namespace spillway {

class JsonNormalizer {
 public:
  // `object`: null for none. Error(model) begins with `where` and names an unknown step with the list of known ones.
  JsonNormalizer(const nlohmann::json& object, const std::string& where);

  // Of well-formed UTF-8. continues: it follows bytes of the same text that are no UTF-8, so nothing is put before it.
  // Error(model) names the step that makes more of it than `growth` has room for.
  std::string apply(std::string text, Growth& growth, bool continues = false) const;

 private:
  void add(const JsonFields& step, int depth);

  struct Step {
    std::function<std::string(const std::string&, Growth&)> run;
    std::string where;  // begins messages
    bool prepends = false;
  };
  std::vector<Step> steps_;
};

}  // namespace spillway
