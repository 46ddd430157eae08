#include "loader/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"
#include "loader/jinja/character_kinds.h"
#include "loader/text/message_text.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {
namespace {

// As Jinja's lexer has them: line breaks are all \n, and the last one goes.
std::string one_kind_of_line(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// The bytes of a character that a name may hold; 0 of another. A digit begins none, but a number was looked for before.
size_t name_bytes(std::string_view text) {
  if (text.empty()) return 0;
  if (static_cast<unsigned char>(text[0]) < 0x80) return is_ascii_letter(text[0]) || is_ascii_digit(text[0]) ? 1 : 0;
  const std::string_view character = text.substr(0, first_utf8(text).bytes);
  return is_alphanumeric(character) ? character.size() : 0;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : source_(one_kind_of_line(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) outside();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  bool here(std::string_view text) const { return source_.compare(at_, text.size(), text) == 0; }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  void advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
  }

  // Text up to the next tag, and the tag.
  void outside() {
    size_t begin = at_;
    for (;; ++begin) {
      begin = source_.find('{', begin);
      if (begin == std::string::npos || begin + 1 >= source_.size()) {
        text_until(source_.size(), false, false);
        return;
      }
      const char next = source_[begin + 1];
      if (next == '%' || next == '{' || next == '#') break;
    }
    const char kind = source_[begin + 1];
    const char mark = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
    text_until(begin, mark == '-', kind != '{' && mark != '+');
    advance(mark == '-' || mark == '+' ? 3 : 2);
    if (kind == '#') {
      comment();
    } else if (kind == '{') {
      add(TokenKind::print_begin, "");
      inside("}}", TokenKind::print_end, false);
    } else if (!raw()) {
      add(TokenKind::block_begin, "");
      inside("%}", TokenKind::block_end, true);
    }
  }

  void text_until(size_t end, bool strip, bool lstrip) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (strip) {
      while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
    } else if (lstrip) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      const bool whole_line = line > 0 || line_starts_;
      if (whole_line && std::all_of(text.begin() + static_cast<ptrdiff_t>(line), text.end(), is_blank)) {
        text = text.substr(0, line);
      }
    }
    if (!text.empty()) add(TokenKind::text, std::string(text));
    advance(end - at_);
  }

  // White space after a tag that ended with `mark` before its end.
  void after_tag(bool strip, bool trim) {
    size_t bytes = 0;
    if (strip) {
      while (at_ + bytes < source_.size() && is_blank(source_[at_ + bytes])) ++bytes;
    } else if (trim && here("\n")) {
      bytes = 1;
    }
    line_starts_ = bytes > 0 && source_[at_ + bytes - 1] == '\n';
    advance(bytes);
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) malformed(name_, line_, "a comment, {#, is not closed by #}");
    const char mark = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2 - at_);
    after_tag(mark == '-', mark != '+');
  }

  // {% raw %} ... {% endraw %}; true when it was one.
  bool raw() {
    size_t end = 0;
    bool strip = false;
    if (!whole_tag(at_, "raw", end, strip)) return false;
    const int begun = line_;
    advance(end - at_);
    after_tag(strip, true);
    for (size_t next = at_; (next = source_.find("{%", next)) != std::string::npos; ++next) {
      const char mark = next + 2 < source_.size() ? source_[next + 2] : '\0';
      if (!whole_tag(next + (mark == '-' || mark == '+' ? 3 : 2), "endraw", end, strip)) continue;
      text_until(next, mark == '-', mark != '+');
      advance(end - at_);
      after_tag(strip, true);
      return true;
    }
    malformed(name_, begun, "{% raw %} is not closed by {% endraw %}");
  }
  bool whole_tag(size_t at, std::string_view word, size_t& end, bool& strip) const {
    while (at < source_.size() && is_blank(source_[at])) ++at;
    if (source_.compare(at, word.size(), word) != 0) return false;
    at += word.size();
    while (at < source_.size() && is_blank(source_[at])) ++at;
    strip = source_.compare(at, 1, "-") == 0;
    if (strip) ++at;
    if (source_.compare(at, 2, "%}") != 0) return false;
    end = at + 2;
    return true;
  }

  void inside(std::string_view closing, TokenKind kind, bool trim) {
    const int begun = line_;
    std::string open;  // brackets
    for (;;) {
      while (at_ < source_.size() && is_blank(source_[at_])) advance(1);
      if (at_ == source_.size())
        malformed(name_, begun, fmt::format("{} is not closed by {}", closing == "}}" ? "{{" : "{%", closing));
      if (open.empty()) {
        const bool marked = (source_[at_] == '-' || source_[at_] == '+') && source_.compare(at_ + 1, 2, closing) == 0;
        if (marked || here(closing)) {
          const bool strip = marked && source_[at_] == '-', keep = marked && !strip;
          add(kind, "");
          advance(closing.size() + (marked ? 1 : 0));
          after_tag(strip, trim && !keep);
          return;
        }
      }
      part(open);
    }
  }

  void part(std::string& open) {
    const char c = source_[at_];
    if (c == '\'' || c == '"') {
      string(c);
    } else if (is_ascii_digit(c)) {
      number();
    } else if (name_bytes(rest()) > 0) {
      const size_t begin = at_;
      while (const size_t bytes = name_bytes(rest())) at_ += bytes;
      add(TokenKind::name, source_.substr(begin, at_ - begin));
    } else {
      sign(open);
    }
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) malformed(name_, line_, "a text lacks its closing quote");
    add(TokenKind::string, unescaped(std::string_view(source_).substr(at_ + 1, end - at_ - 1), name_, line_));
    advance(end + 1 - at_);
  }

  // The bytes of 0x1f, 0o17 or 0b11 here; 0 where there is none.
  size_t based_number() const {
    const char mark = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : '\0';
    const std::string_view digits = mark == 'x'   ? "0123456789abcdefABCDEF_"
                                    : mark == 'o' ? "01234567_"
                                    : mark == 'b' ? "01_"
                                                  : "";
    if (source_[at_] != '0' || digits.empty()) return 0;
    const size_t end = std::min(source_.find_first_not_of(digits, at_ + 2), source_.size());
    return end > at_ + 2 && source_[end - 1] != '_' ? end - at_ : 0;
  }
  static std::string without_underscores(std::string text) {
    std::erase(text, '_');
    return text;
  }

  void number() {
    size_t end = at_;
    std::string digits;
    bool real = false;
    const auto take_digits = [&] {
      while (end < source_.size() && (is_ascii_digit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_ascii_digit(source_[i]); };
    if (const size_t prefixed = based_number(); prefixed > 0) {
      add(TokenKind::integer, without_underscores(source_.substr(at_, prefixed)));
      at_ += prefixed;
      return;
    }
    take_digits();
    if (source_.compare(end, 1, ".") == 0 && digit_at(end + 1)) {
      real = true;
      digits += '.';
      ++end;
      take_digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const size_t signed_at = end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-') ? 1 : 0;
      if (digit_at(end + 1 + signed_at)) {
        real = true;
        digits += source_.substr(end, 1 + signed_at);
        end += 1 + signed_at;
        take_digits();
      }
    }
    add(real ? TokenKind::real : TokenKind::integer, digits);
    at_ = end;
  }

  void sign(std::string& open) {
    static constexpr std::string_view kSigns[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "/",
                                                  "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                  "<",  ">",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view one : kSigns) {
      if (!here(one)) continue;
      if (one == "(" || one == "[" || one == "{") open += one;
      if (one == ")" || one == "]" || one == "}") {
        const char opening = one == ")" ? '(' : one == "]" ? '[' : '{';
        if (open.empty() || open.back() != opening) malformed(name_, line_, fmt::format("{} closes nothing", one));
        open.pop_back();
      }
      add(TokenKind::sign, std::string(one));
      at_ += one.size();
      return;
    }
    const std::string character = message_text(rest().substr(0, first_utf8(rest()).bytes));
    malformed(name_, line_, fmt::format("the character \"{}\" stands in a tag", character));
  }

  const std::string source_;
  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starts_ = true;  // nothing of this line comes before at_
};

}  // namespace

void refuse(const std::string& name, int line, const std::string& what) {
  throw Error(ErrorKind::model, fmt::format("{}, line {}: {} is not known here; --template FILE or NAME takes another",
                                            name, line, what));
}

void malformed(const std::string& name, int line, const std::string& what) {
  throw Error(ErrorKind::model,
              fmt::format("{}, line {}: a syntax error: {}; --template FILE or NAME takes another", name, line, what));
}

std::vector<Token> tokenise(std::string_view source, const std::string& name) { return Lexer(source, name).run(); }

}  // namespace spillway::jinja
