#include "loader/jinja/python_text.h"

#include <algorithm>

#include "loader/jinja/character_kinds.h"
#include "loader/jinja/context.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

std::string_view last_character(std::string_view text) {
  size_t bytes = 1;
  while (bytes < std::min<size_t>(4, text.size()) &&
         (static_cast<unsigned char>(text[text.size() - bytes]) & 0xc0) == 0x80) {
    ++bytes;
  }
  return text.substr(text.size() - bytes);
}

}  // namespace

std::string_view stripped(std::string_view text, const std::string* set, bool left, bool right) {
  std::vector<std::string_view> chosen = set ? characters(*set) : std::vector<std::string_view>();
  std::sort(chosen.begin(), chosen.end());
  const auto goes = [&](std::string_view character) {
    return set ? std::binary_search(chosen.begin(), chosen.end(), character) : is_space(character);
  };
  while (left && !text.empty()) {
    const size_t bytes = first_utf8(text).bytes;
    if (!goes(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    const std::string_view last = last_character(text);
    if (!goes(last)) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, int64_t most,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (most != 0) {
    const size_t found = from_right ? text.rfind(separator) : text.find(separator);
    if (found == std::string_view::npos) break;
    if (from_right) {
      parts.push_back(text.substr(found + separator.size()));
      text = text.substr(0, found);
    } else {
      parts.push_back(text.substr(0, found));
      text.remove_prefix(found + separator.size());
    }
    --most;
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_white(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  text = stripped(text, nullptr, true, true);
  while (!text.empty()) {
    if (most == 0) {
      parts.push_back(text);
      break;
    }
    size_t at = from_right ? text.size() : 0;
    if (from_right) {
      while (at > 0) {
        const size_t bytes = last_character(text.substr(0, at)).size();
        if (is_space(text.substr(at - bytes, bytes))) break;
        at -= bytes;
      }
      parts.push_back(text.substr(at));
      text = stripped(text.substr(0, at), nullptr, false, true);
    } else {
      while (at < text.size()) {
        const size_t bytes = first_utf8(text.substr(at)).bytes;
        if (is_space(text.substr(at, bytes))) break;
        at += bytes;
      }
      parts.push_back(text.substr(0, at));
      text = stripped(text.substr(at), nullptr, true, false);
    }
    --most;
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = first_utf8(text.substr(at));
    const uint32_t point = next.step == Utf8Step::whole ? code_point(text.substr(at, next.bytes)) : 0;
    const bool breaks = (point >= 10 && point <= 13) || (point >= 0x1c && point <= 0x1e) || point == 0x85 ||
                        point == 0x2028 || point == 0x2029;
    const size_t end_of_text = at;
    at += next.bytes;
    if (!breaks) continue;
    if (point == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end_of_text) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t most) {
  std::string out;
  if (from.empty()) {  // between all characters, as Python has it
    for (const std::string_view character : characters(text)) {
      if (most != 0) {
        out += to;
        --most;
      }
      out += character;
    }
    if (most != 0) out += to;
    return out;
  }
  for (; most != 0; --most) {
    const size_t found = text.find(from);
    if (found == std::string_view::npos) break;
    out.append(text.substr(0, found)).append(to);
    text.remove_prefix(found + from.size());
  }
  return out.append(text);
}

}  // namespace spillway::jinja
