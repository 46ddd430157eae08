#include "loader/text/json_normalizer.h"

#include <fmt/format.h>

#include <map>

#include "loader/printable.h"
#include "loader/text/json_pattern.h"
#include "loader/text/split.h"
#include "loader/text/unicode.h"

namespace spillway {
namespace {

constexpr int kDeepest = 8;  // of sequences in sequences
constexpr const char* kKnown = "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip";

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
    return;
  }
  if (steps_.size() == kMostSteps) step.refuse(fmt::format("more than {} steps", kMostSteps));
  const std::string where = fmt::format("{}, step {} ({})", step.where(), steps_.size() + 1, printable(type));
  if (const auto form = forms.find(type); form != forms.end()) {
    steps_.push_back(
        {[chosen = form->second](const std::string& text, Growth&) { return normalized(text, chosen); }, where});
  } else if (type == "Prepend") {
    steps_.push_back({[prefix = step.text("prepend", "")](const std::string& text, Growth&) {
                        return text.empty() ? text : prefix + text;
                      },
                      where, true});
  } else if (type == "Replace") {
    steps_.push_back(
        {[pattern = read_pattern(step), content = step.text("content", ""), where](
             const std::string& text, Growth& growth) { return replace_all(pattern, content, text, growth, where); },
         where});
  } else if (type == "Lowercase") {
    steps_.push_back({[](const std::string& text, Growth&) { return lowercase(text); }, where});
  } else if (type == "Strip") {
    const bool left = step.flag("strip_left", true), right = step.flag("strip_right", true);
    steps_.push_back({[left, right](const std::string& text, Growth&) {
                        std::string_view rest = text;
                        if (left) rest.remove_prefix(white_begin(rest));
                        return std::string(right ? without_white_end(rest) : rest);
                      },
                      where});
  } else {
    step.refuse_type(kKnown);
  }
}

std::string JsonNormalizer::apply(std::string text, Growth& growth, bool continues) const {
  for (const Step& step : steps_) {
    if (continues && step.prepends) continue;
    text = step.run(text, growth);
    growth.made(text.size(), step.where);
  }
  growth.kept(text.size());
  return text;
}

}  // namespace spillway
