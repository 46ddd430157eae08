#include "loader/text/json_normalizer.h"

#include <fmt/format.h>

#include <map>

#include "loader/text/json_pattern.h"
#include "loader/text/split.h"
#include "loader/text/unicode.h"

namespace spillway {
namespace {

constexpr int kDeepest = 8;  // of sequences in sequences
constexpr const char* kKnown = "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip";

std::string replace_all(const JsonPattern& pattern, const std::string& content, const std::string& text) {
  std::string out;
  const auto take = [&](size_t begin, size_t end, bool match) {
    out += match ? std::string_view(content) : std::string_view(text).substr(begin, end - begin);
  };
  if (pattern.regex) {
    pattern.regex->for_each(text, take);
    return out;
  }
  for (size_t at = 0; at < text.size();) {
    const size_t found = std::min(text.find(pattern.literal, at), text.size());
    take(at, found, false);
    if (found == text.size()) break;
    take(found, found + pattern.literal.size(), true);
    at = found + pattern.literal.size();
  }
  return out;
}

}  // namespace

JsonNormalizer::JsonNormalizer(const nlohmann::json& object, const std::string& where) {
  if (!object.is_null()) add(JsonFields(object, where), 0);
}

void JsonNormalizer::add(const JsonFields& step, int depth) {
  static const std::map<std::string, NormalForm> forms{
      {"NFC", NormalForm::nfc}, {"NFD", NormalForm::nfd}, {"NFKC", NormalForm::nfkc}, {"NFKD", NormalForm::nfkd}};
  const std::string type = step.type();
  if (type == "Sequence") {
    if (depth == kDeepest) step.refuse("sequences are nested too deep");
    for (const JsonFields& inner : step.list("normalizers")) add(inner, depth + 1);
  } else if (const auto form = forms.find(type); form != forms.end()) {
    steps_.push_back({[chosen = form->second](const std::string& text) { return normalized(text, chosen); }});
  } else if (type == "Prepend") {
    steps_.push_back(
        {[prefix = step.text("prepend", "")](std::string text) { return text.empty() ? text : prefix + text; }, true});
  } else if (type == "Replace") {
    steps_.push_back({[pattern = read_pattern(step), content = step.text("content", "")](const std::string& text) {
      return replace_all(pattern, content, text);
    }});
  } else if (type == "Lowercase") {
    steps_.push_back({[](const std::string& text) { return lowercase(text); }});
  } else if (type == "Strip") {
    const bool left = step.flag("strip_left", true), right = step.flag("strip_right", true);
    steps_.push_back({[left, right](const std::string& text) {
      std::string_view rest = text;
      if (left) rest.remove_prefix(white_begin(rest));
      return std::string(right ? without_white_end(rest) : rest);
    }});
  } else {
    step.refuse_type(kKnown);
  }
}

std::string JsonNormalizer::apply(std::string text, bool continues) const {
  for (const Step& step : steps_) {
    if (!(continues && step.prepends)) text = step.run(std::move(text));
  }
  return text;
}

}  // namespace spillway
