#include "loader/text/json_decoder.h"

#include <fmt/format.h>

#include "loader/text/byte_alphabet.h"
#include "loader/text/words.h"

namespace spillway {
namespace {

constexpr int kDeepest = 8;  // of sequences in sequences
constexpr const char* kKnown = "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace";

}  // namespace

JsonDecoder::JsonDecoder(const nlohmann::json& object, const std::string& where) : where_(where) {
  if (!object.is_null()) add(JsonFields(object, where), 0);
}

void JsonDecoder::add(const JsonFields& step, int depth) {
  const std::string type = step.type();
  if (type == "Sequence") {
    if (depth == kDeepest) step.refuse("sequences are nested too deep");
    for (const JsonFields& inner : step.list("decoders")) add(inner, depth + 1);
  } else if (type == "ByteLevel") {
    byte_level_ = true;
  } else if (type == "ByteFallback") {
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    // Pieces are put together as they come.
  } else if (type == "Replace") {
    const JsonPattern pattern = read_pattern(step);
    if (pattern.regex) step.refuse("only a String can be replaced");
    replacements_.push_back({pattern, step.text("content", "")});
  } else if (type == "Strip") {
    if (step.text("content", "") != " " || step.integer("stop", 0) != 0)
      step.refuse("only the first space can be stripped");
    drops_first_space_ = step.integer("start", 0) > 0;
  } else if (type == "Metaspace") {
    replacements_.push_back({{nullptr, space_mark(step)}, " "});
    const std::string scheme = step.text("prepend_scheme", step.flag("add_prefix_space", true) ? "always" : "never");
    drops_first_space_ = scheme != "never";
  } else {
    step.refuse_type(kKnown);
  }
  if (replacements_.size() > kMostSteps) step.refuse(fmt::format("more than {} steps", kMostSteps));
}

std::string JsonDecoder::bytes(std::string_view token, Growth& growth) const {
  const int byte = byte_fallback_ ? byte_of_token(token) : -1;
  if (byte >= 0) return std::string(1, static_cast<char>(byte));
  std::string text;
  if (byte_level_) {
    if (!append_bytes_of_symbols(token, text)) text = token;
    return text;
  }
  text = token;
  for (const auto& [pattern, content] : replacements_) {
    text = replace_all(pattern, content, text, growth, where_);
    growth.made(text.size(), where_);
  }
  growth.kept(text.size());
  return text;
}

}  // namespace spillway
