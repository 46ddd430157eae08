// The pre-tokenizer of a tokenizer.json: cuts text into the pieces within which the model merges.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "loader/text/json_fields.h"
#include "loader/text/pieces.h"

namespace spillway {

class JsonPretokenizer {
 public:
  // `object`: null for none. Error(model) begins with `where` and names an unknown step with the list of known ones.
  JsonPretokenizer(const nlohmann::json& object, const std::string& where);

  // Cuts the pieces, well-formed UTF-8, further. `first`: they begin where the text begins.
  void apply(Pieces& pieces, bool first) const;

  // The model sees bytes in the alphabet of byte-level BPE.
  bool byte_level() const { return byte_level_; }

 private:
  void add(const JsonFields& step, int depth);
  void add_byte_level(const JsonFields& step);
  void add_metaspace(const JsonFields& step);
  void add_split(Split split);

  std::vector<std::function<void(Pieces&, bool)>> steps_;
  bool byte_level_ = false;
};

}  // namespace spillway
