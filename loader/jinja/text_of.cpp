// Values as Python prints them.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "loader/jinja/character_kinds.h"
#include "loader/jinja/context.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

// As repr() has it: what cannot be seen is written in digits.
std::string escape_of(uint32_t point) {
  return point < 0x100     ? fmt::format("\\x{:02x}", point)
         : point < 0x10000 ? fmt::format("\\u{:04x}", point)
                           : fmt::format("\\U{:08x}", point);
}

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (const std::string_view character : characters(text)) {
    const char c = character[0];
    if (c == quote || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (first_utf8(character).step == Utf8Step::whole && !is_printable(character)) {
      out += escape_of(code_point(character));
    } else {
      out += character;
    }
  }
  return out + quote;
}

std::string joined(const List& items) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) out += (i > 0 ? ", " : "") + to_repr(items[i]);
  return out;
}

std::string sequence_text(const Sequence& list) {
  const std::string inside = list.kind == SequenceKind::range ? "" : joined(list.items);
  switch (list.kind) {
    case SequenceKind::list:
      return "[" + inside + "]";
    case SequenceKind::tuple:
      return "(" + inside + (list.items.size() == 1 ? ",)" : ")");
    case SequenceKind::range: {
      const Range& range = list.range;
      return range.step == 1 ? fmt::format("range({}, {})", range.start, range.stop)
                             : fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
    }
    case SequenceKind::items:
      return "dict_items([" + inside + "])";
    case SequenceKind::keys:
      return "dict_keys([" + inside + "])";
    case SequenceKind::values:
      return "dict_values([" + inside + "])";
    case SequenceKind::generator:
      break;
  }
  return "<generator>";
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
  if (const Sequence* list = value.sequence()) return sequence_text(*list);
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
