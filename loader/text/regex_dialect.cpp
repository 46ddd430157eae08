#include "loader/text/regex_dialect.h"

#include <fmt/format.h>

#include <string_view>

#include "kernels/check.h"
#include "loader/printable.h"

namespace spillway {
namespace {

constexpr std::string_view kSpace = R"(\t-\r\x{85}\p{Z})";
constexpr std::string_view kWord = R"(\p{L}\p{M}\p{N}\p{Pc})";
constexpr std::string_view kSame = "rntfaeAzZbBxpP";  // escapes of one meaning

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    for (at_ = 0; at_ < pattern_.size(); ++at_) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_character(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '(' && pattern_.compare(at_, 2, "(*") == 0) {
        refuse("(*");
      } else {
        out_ += c;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::model, fmt::format("{}: the pattern \"{}\" has {}, which is not known here", where_,
                                              printable(pattern_), printable(what)));
  }

  void open_class() {
    in_class_ = true;
    out_ += '[';
    if (pattern_.compare(at_ + 1, 1, "^") == 0) {
      out_ += '^';
      ++at_;
    }
    if (pattern_.compare(at_ + 1, 1, "]") == 0) {
      out_ += "\\]";
      ++at_;
    }
  }

  void class_character(char c) {
    if (c == '[') refuse("a class inside a class");
    if (pattern_.compare(at_, 2, "&&") == 0) refuse("&& inside a class");
    if (c == ']') in_class_ = false;
    out_ += c;
  }

  void escape() {
    if (++at_ == pattern_.size()) refuse("a backslash at its end");
    const char c = pattern_[at_];
    const auto add = [&](std::string_view inside) {
      out_ += in_class_ ? std::string(inside) : fmt::format("[{}]", inside);
    };
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (c == 's') {
      add(kSpace);
    } else if (c == 'w') {
      add(kWord);
    } else if (c == 'd') {
      out_ += "\\p{Nd}";
    } else if (c == 'D') {
      out_ += "\\P{Nd}";
    } else if (c == 'S' && !in_class_) {
      out_ += fmt::format("[^{}]", kSpace);
    } else if (c == 'W' && !in_class_) {
      out_ += fmt::format("[^{}]", kWord);
    } else if (letter && kSame.find(c) == std::string_view::npos) {
      refuse(std::string("\\") + c + (in_class_ ? " inside a class" : ""));
    } else {
      out_ += {'\\', c};
    }
  }

  const std::string& pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string to_pcre2(const std::string& pattern, const std::string& where) { return Translator(pattern, where).run(); }

}  // namespace spillway
