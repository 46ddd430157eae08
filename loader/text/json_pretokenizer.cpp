#include "loader/text/json_pretokenizer.h"

#include <fmt/format.h>

#include <map>

#include "loader/text/json_pattern.h"
#include "loader/text/patterns.h"
#include "loader/text/unicode.h"

namespace spillway {
namespace {

constexpr int kDeepest = 8;  // of sequences in sequences
constexpr const char* kKnown =
    "Sequence, Split, ByteLevel, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit";

Split built_in(const char* pattern, SplitBehavior behavior, bool invert = false) {
  return {std::make_shared<const Regex>(pattern, "built in", true), behavior, invert};
}

SplitBehavior behavior_of(const JsonFields& step, const std::string& fallback) {
  static const std::map<std::string, SplitBehavior> known{{"Removed", SplitBehavior::removed},
                                                          {"Isolated", SplitBehavior::isolated},
                                                          {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                          {"MergedWithNext", SplitBehavior::merged_with_next},
                                                          {"Contiguous", SplitBehavior::contiguous}};
  const auto found = known.find(step.text("behavior", fallback));
  if (found == known.end()) {
    step.refuse("its behavior is none of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
  }
  return found->second;
}

std::string replace_spaces(std::string_view text, const std::string& replacement) {
  std::string out;
  for (const char c : text) {
    if (c == ' ') {
      out += replacement;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

JsonPretokenizer::JsonPretokenizer(const nlohmann::json& object, const std::string& where) {
  if (!object.is_null()) add(JsonFields(object, where), 0);
}

void JsonPretokenizer::apply(Pieces& pieces, bool first) const {
  for (const auto& step : steps_) step(pieces, first);
}

void JsonPretokenizer::add_split(Split split) {
  steps_.emplace_back([split = std::move(split)](Pieces& pieces, bool) { pieces.apply(split); });
}

void JsonPretokenizer::add_byte_level(const JsonFields& step) {
  byte_level_ = true;
  if (step.flag("add_prefix_space", true)) {
    steps_.emplace_back([](Pieces& pieces, bool) {
      for (std::string_view& piece : pieces.list) {
        if (!piece.starts_with(' ')) piece = pieces.written.emplace_back(" " + std::string(piece));
      }
    });
  }
  if (step.flag("use_regex", true)) add_split(gpt2_split());
}

void JsonPretokenizer::add_metaspace(const JsonFields& step) {
  const std::string mark = space_mark(step);
  const std::string scheme = step.text("prepend_scheme", step.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    step.refuse("its prepend_scheme is none of always, first, never");
  }
  steps_.emplace_back([mark, scheme](Pieces& pieces, bool first) {
    for (size_t i = 0; i < pieces.list.size(); ++i) {
      std::string text = replace_spaces(pieces.list[i], mark);
      const bool prepends = scheme == "always" || (scheme == "first" && first && i == 0);
      if (prepends && !text.starts_with(mark)) text.insert(0, mark);
      pieces.list[i] = pieces.written.emplace_back(std::move(text));
    }
  });
  if (step.flag("split", true)) add_split(Split(mark, SplitBehavior::merged_with_next));
}

void JsonPretokenizer::add(const JsonFields& step, int depth) {
  const std::string type = step.type();
  if (type == "Sequence") {
    if (depth == kDeepest) step.refuse("sequences are nested too deep");
    for (const JsonFields& inner : step.list("pretokenizers")) add(inner, depth + 1);
  } else if (type == "Split") {
    const SplitBehavior behavior = behavior_of(step, "");
    const bool invert = step.flag("invert", false);
    const JsonPattern pattern = read_pattern(step);
    add_split(pattern.regex ? Split(pattern.regex, behavior, invert) : Split(pattern.literal, behavior, invert));
  } else if (type == "ByteLevel") {
    add_byte_level(step);
  } else if (type == "Metaspace") {
    add_metaspace(step);
  } else if (type == "Digits") {
    const bool individual = step.flag("individual_digits", false);
    add_split(built_in("\\p{N}", individual ? SplitBehavior::isolated : SplitBehavior::contiguous));
  } else if (type == "Punctuation") {
    add_split(built_in(R"([\p{P}$+<=>^`|~])", behavior_of(step, "Isolated")));
  } else if (type == "Whitespace") {
    add_split(built_in(R"(\w+|[^\w\s]+)", SplitBehavior::removed, true));
  } else if (type == "WhitespaceSplit") {
    add_split(built_in(R"(\s)", SplitBehavior::removed));
  } else {
    step.refuse_type(kKnown);
  }
  if (steps_.size() > kMostSteps) step.refuse(fmt::format("more than {} steps", kMostSteps));
}

}  // namespace spillway
