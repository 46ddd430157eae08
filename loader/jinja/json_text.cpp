// JSON as Python's json.dumps writes it.
#include <fmt/format.h>

#include <algorithm>

#include "loader/jinja/context.h"
#include "loader/text/unicode.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

class Writer {
 public:
  Writer(Context& context, const JsonStyle& style) : context_(context), style_(style) {}

  std::string run(const Value& value) {
    write(value, 1);
    return std::move(out_);
  }

 private:
  void write(const Value& value, int level) {
    if (value.is_none()) {
      out_ += "null";
    } else if (const bool* flag = value.boolean()) {
      out_ += *flag ? "true" : "false";
    } else if (const double* number = value.real()) {
      out_ += real(*number);
    } else if (value.integer()) {
      out_ += to_repr(value);
    } else if (const std::string* text = value.text()) {
      write_text(*text);
    } else if (const Sequence* list = value.sequence(); list && list->kind <= SequenceKind::tuple) {
      write_list(*list, level);
    } else if (const Mapping* dict = value.mapping(); dict && !dict->teller) {
      write_dict(*dict, level);
    } else {
      context_.fail(fmt::format("{} cannot be written as JSON", value.type_name()));
    }
  }

  static std::string real(double number) {
    const std::string text = number_text(number);
    return text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text == "nan" ? "NaN" : text;
  }

  void line(int level) {
    if (style_.indent < 0) return;
    const auto spaces = static_cast<int64_t>(level) * style_.indent;
    context_.charge(spaces);
    out_ += '\n';
    out_.append(static_cast<size_t>(spaces), ' ');
  }

  void write_list(const Sequence& list, int level) {
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      line(level);
      write(list.items[i], level + 1);
    }
    if (!list.items.empty()) line(level - 1);
    out_ += ']';
  }

  void write_dict(const Mapping& dict, int level) {
    std::vector<std::pair<std::string, const Value*>> items;
    for (const auto& [key, value] : dict.items) items.emplace_back(key_text(key), &value);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      line(level);
      write_text(items[i].first);
      out_ += style_.key_separator;
      write(*items[i].second, level + 1);
    }
    if (!items.empty()) line(level - 1);
    out_ += '}';
  }

  std::string key_text(const Value& key) const {
    if (key.text()) return *key.text();
    if (key.is_none()) return "null";
    if (const bool* flag = key.boolean()) return *flag ? "true" : "false";
    if (const double* number = key.real()) return real(*number);
    if (key.integer()) return to_repr(key);
    context_.fail(fmt::format("{} cannot be a key of JSON", key.type_name()));
  }

  void write_text(std::string_view text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const Utf8Char next = first_utf8(text.substr(at));
      const std::string_view character = text.substr(at, next.bytes);
      at += next.bytes;
      if (character.size() == 1 && next.step == Utf8Step::whole) {
        write_ascii(character[0]);
      } else if (style_.ascii && next.step == Utf8Step::whole) {
        write_escaped(code_point(character));
      } else {
        out_ += character;
      }
    }
    out_ += '"';
  }

  void write_ascii(char c) {
    static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
    const size_t found = kFrom.find(c);
    if (found != std::string_view::npos) {
      out_ += {'\\', kTo[found]};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out_ += c;
    }
  }

  void write_escaped(uint32_t point) {
    if (point >= 0x10000) {
      out_ +=
          fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((point - 0x10000) >> 10), 0xdc00 + ((point - 0x10000) & 0x3ff));
    } else {
      out_ += fmt::format("\\u{:04x}", point);
    }
  }

  Context& context_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

std::string to_json(Context& context, const Value& value, const JsonStyle& style) {
  context.charge(weight_of(value));
  return Writer(context, style).run(value);
}

}  // namespace spillway::jinja
