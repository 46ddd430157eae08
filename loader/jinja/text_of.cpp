// Values as Python prints them.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "loader/jinja/value.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (static_cast<unsigned char>(c) >= 0x80) {
      const Utf8Char next = first_utf8(text.substr(at));
      out += text.substr(at, next.bytes);
      at += next.bytes;
      continue;
    }
    ++at;
    if (c == quote || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + quote;
}

}  // namespace

// The shortest digits that read back the same, in Python's choice between 0.0001 and 1e-05.
std::string number_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
  const std::string_view scientific(buffer, static_cast<size_t>(end - buffer));
  const int exponent = std::atoi(std::string(scientific.substr(scientific.find('e') + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  const auto fixed_end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::fixed).ptr;
  std::string fixed(buffer, static_cast<size_t>(fixed_end - buffer));
  if (fixed.find('.') == std::string::npos) fixed += ".0";
  return fixed;
}

std::string to_text(const Value& value) {
  if (const std::string* text = value.text()) return *text;
  if (value.is_undefined()) return "";
  return to_repr(value);
}

std::string to_repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (const bool* flag = value.boolean()) return *flag ? "True" : "False";
  if (const int64_t* number = value.integer()) return std::to_string(*number);
  if (const double* number = value.real()) return number_text(*number);
  if (const std::string* text = value.text()) return quoted(*text);
  if (const Sequence* list = value.sequence()) {
    if (list->kind == SequenceKind::generator) return "<generator>";
    const bool tuple = list->kind == SequenceKind::tuple;
    std::string out = tuple ? "(" : "[";
    for (size_t i = 0; i < list->items.size(); ++i) out += (i > 0 ? ", " : "") + to_repr(list->items[i]);
    if (tuple && list->items.size() == 1) out += ",";
    return out + (tuple ? ")" : "]");
  }
  if (const Mapping* dict = value.mapping()) {
    std::string out = "{";
    for (size_t i = 0; i < dict->items.size(); ++i) {
      const auto& [key, item] = dict->items[i];
      out += (i > 0 ? ", " : "") + to_repr(key) + ": " + to_repr(item);
    }
    return out + "}";
  }
  return value.space() ? "<Namespace>" : "<function>";
}

}  // namespace spillway::jinja
