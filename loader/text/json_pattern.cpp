#include "loader/text/json_pattern.h"

#include <algorithm>

#include "loader/text/utf8.h"
#include "loader/text/words.h"

namespace spillway {

JsonPattern read_pattern(const JsonFields& step) {
  const JsonFields pattern(step.value("pattern"), fmt::format("{}, pattern", step.where()));
  if (!pattern.value("Regex").is_null()) {
    return {std::make_shared<const Regex>(pattern.text("Regex", ""), pattern.where()), ""};
  }
  if (pattern.value("String").is_null()) pattern.refuse("is neither a Regex nor a String");
  JsonPattern result{nullptr, pattern.text("String", "")};
  if (result.literal.empty()) pattern.refuse("its String is empty");
  return result;
}

std::string space_mark(const JsonFields& step) {
  std::string mark = step.text("replacement", std::string(kSpaceMark));
  if (mark.empty() || first_utf8(mark).bytes != mark.size()) step.refuse("its replacement is not one character");
  return mark;
}

std::string replace_all(const JsonPattern& pattern, const std::string& content, std::string_view text, Growth& growth,
                        const std::string& where) {
  std::string out;
  const auto take = [&](size_t begin, size_t end, bool match) {
    const std::string_view part = match ? std::string_view(content) : text.substr(begin, end - begin);
    if (out.size() + part.size() > growth.room()) growth.made(out.size() + part.size(), where);
    out += part;
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

}  // namespace spillway
