// The tokens as the two parsers take them, and the limit on how deep they go into each other.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "loader/jinja/ast.h"
#include "loader/jinja/lexer.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {

class TokenStream {
 public:
  TokenStream(std::vector<Token> tokens, const std::string& name) : tokens_(std::move(tokens)), name_(name) {}

  const Token& now() const { return tokens_[at_]; }
  const Token& after(size_t count) const { return tokens_[std::min(at_ + count, tokens_.size() - 1)]; }
  Token take() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is(TokenKind kind) const { return now().kind == kind; }
  bool is_sign(std::string_view text) const { return is(TokenKind::sign) && now().text == text; }
  bool is_word(std::string_view text) const { return is(TokenKind::name) && now().text == text; }
  bool take_sign(std::string_view text) { return is_sign(text) && (take(), true); }
  bool take_word(std::string_view text) { return is_word(text) && (take(), true); }
  void need_sign(std::string_view text) {
    if (!take_sign(text)) unexpected(fmt::format("\"{}\" was expected, ", text));
  }
  void need_word(std::string_view text) {
    if (!take_word(text)) unexpected(fmt::format("\"{}\" was expected, ", text));
  }
  std::string need_name() {
    if (!is(TokenKind::name)) unexpected("a name was expected, ");
    return take().text;
  }
  void need(TokenKind kind) {
    if (!is(kind)) unexpected();
    take();
  }
  int line() const { return now().line; }

  [[noreturn]] void unexpected(const std::string& hint = "") const {
    static constexpr const char* kNames[] = {"a text outside of tags", "{%", "%}", "{{", "}}"};
    const auto kind = static_cast<size_t>(now().kind);
    const std::string what = is(TokenKind::end)         ? "the end of the template"
                             : kind < std::size(kNames) ? kNames[kind]
                                                        : fmt::format("\"{}\"", message_text(now().text));
    malformed(hint + what + " stands at this place");
  }
  [[noreturn]] void malformed(const std::string& what) const { jinja::malformed(name_, line(), what); }
  [[noreturn]] void malformed(const std::string& what, int line) const { jinja::malformed(name_, line, what); }
  [[noreturn]] void refuse(const std::string& what) const { jinja::refuse(name_, line(), what); }

  NodePtr node(Kind kind, int line, Nodes items = {}) const {
    auto made = std::make_unique<Node>();
    made->kind = kind;
    made->line = line;
    made->items = std::move(items);
    return made;
  }
  template <typename... Items>
  NodePtr node_of(Kind kind, int line, Items... items) const {
    NodePtr made = node(kind, line);
    (made->items.push_back(std::move(items)), ...);
    return made;
  }

  // Held by every step into a deeper level, and for every step that a chain (a + b + c) goes on.
  class Level {
   public:
    explicit Level(TokenStream& stream) : stream_(stream) { deepen(); }
    Level(const Level&) = delete;
    ~Level() { stream_.depth_ -= held_; }
    void deepen() {
      constexpr int kDeepest = 200;
      if (stream_.depth_ == kDeepest) stream_.refuse("nesting deeper than 200");
      ++stream_.depth_;
      ++held_;
    }

   private:
    TokenStream& stream_;
    int held_ = 0;
  };

 private:
  std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace spillway::jinja
