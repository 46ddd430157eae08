#include "loader/jinja/parser.h"

#include <algorithm>

#include "loader/jinja/expression_parser.h"

namespace spillway::jinja {
namespace {

constexpr const char* kKnown = "for, if, set, macro, call, filter, with, generation, break, continue, raw";

class Parser {
 public:
  Parser(std::string_view source, const std::string& name) : in_(tokenise(source, name), name), expressions_(in_) {}

  Nodes run() {
    Nodes nodes = until({});
    if (!in_.is(TokenKind::end)) in_.unexpected();
    return nodes;
  }

 private:
  // Statements up to {% WORD, one of `words`, which is left as the next token; to the end where there are none. The
  // last of them closes what was opened in the line `opened`.
  Nodes until(std::initializer_list<std::string_view> words, int opened = 0) {
    TokenStream::Level level(in_);
    Nodes nodes;
    for (;;) {
      const int line = in_.line();
      if (in_.is(TokenKind::text)) {
        nodes.push_back(in_.node(Kind::output, line));
        nodes.back()->text = in_.take().text;
      } else if (in_.is(TokenKind::print_begin)) {
        in_.take();
        nodes.push_back(in_.node_of(Kind::print, line, expressions_.tuple_or_expression()));
        in_.need(TokenKind::print_end);
      } else if (in_.is(TokenKind::block_begin)) {
        in_.take();
        if (in_.is(TokenKind::name) && std::find(words.begin(), words.end(), in_.now().text) != words.end())
          return nodes;
        nodes.push_back(statement());
      } else if (words.size() == 0) {
        return nodes;
      } else {
        const std::string_view end = *(words.end() - 1);
        in_.malformed(fmt::format("{{% {} %}} is not closed by {{% {} %}}", end.substr(3), end), opened);
      }
    }
  }

  // The end of a tag that a body follows; Jinja takes a colon before it, as Python wants one.
  void open_body() {
    in_.take_sign(":");
    in_.need(TokenKind::block_end);
  }

  // What a block tag holds after its name, up to {% end... %}.
  Nodes body(std::string_view end, int line) {
    open_body();
    Nodes nodes = until({end}, line);
    in_.take();
    in_.need(TokenKind::block_end);
    return nodes;
  }

  NodePtr statement() {
    const int line = in_.line();
    const std::string word = in_.need_name();
    if (word == "for") return for_loop(line);
    if (word == "if") return if_chain(line);
    if (word == "set") return set(line);
    if (word == "macro") return macro(line);
    if (word == "call") return call_block(line);
    if (word == "with") return with(line);
    NodePtr made = in_.node(Kind::block, line);
    if (word == "filter") {
      made->kind = Kind::filter_block;
      made->items.push_back(expressions_.filter_chain());
      made->body = body("endfilter", line);
    } else if (word == "generation") {
      made->body = body("endgeneration", line);
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) in_.malformed(word + " stands outside of a loop");
      made->kind = word == "break" ? Kind::break_loop : Kind::continue_loop;
      in_.need(TokenKind::block_end);
    } else if (word.starts_with("end") || word == "else" || word == "elif") {
      in_.malformed(fmt::format("{{% {} %}} closes nothing that is open here", message_text(word)));
    } else {
      in_.refuse(fmt::format("the statement \"{}\" (of {})", message_text(word), kKnown));
    }
    return made;
  }

  NodePtr for_loop(int line) {
    NodePtr made = in_.node(Kind::for_loop, line);
    const bool bracket = in_.take_sign("(");
    do {
      made->names.push_back(in_.need_name());
    } while (in_.take_sign(","));
    if (bracket) in_.need_sign(")");
    in_.need_word("in");
    made->items.push_back(expressions_.without_conditional());
    made->items.push_back(in_.take_word("if") ? expressions_.expression() : nullptr);
    if (in_.is_word("recursive")) in_.refuse("a recursive loop");
    open_body();
    ++loops_;
    made->body = until({"else", "endfor"}, line);
    --loops_;
    if (in_.take_word("else")) {
      open_body();
      made->other = until({"endfor"}, line);
    }
    in_.need_word("endfor");
    in_.need(TokenKind::block_end);
    return made;
  }

  NodePtr if_chain(int line) {
    NodePtr made = in_.node(Kind::if_chain, line);
    do {
      made->items.push_back(expressions_.without_conditional());
      open_body();
      made->branches.push_back(until({"elif", "else", "endif"}, line));
    } while (in_.take_word("elif"));
    if (in_.take_word("else")) {
      open_body();
      made->other = until({"endif"}, line);
    }
    in_.need_word("endif");
    in_.need(TokenKind::block_end);
    return made;
  }

  NodePtr set(int line) {
    NodePtr made = in_.node(Kind::set, line);
    do {
      std::string name = in_.need_name();
      if (in_.take_sign(".")) name += "." + in_.need_name();
      made->names.push_back(std::move(name));
    } while (in_.take_sign(","));
    if (in_.take_sign("=")) {
      made->items.push_back(expressions_.tuple_or_expression());
      in_.need(TokenKind::block_end);
      return made;
    }
    if (made->names.size() != 1) in_.unexpected();
    made->items.push_back(in_.take_sign("|") ? expressions_.filter_chain() : nullptr);
    made->body = body("endset", line);
    made->value = Value(true);  // a block, be its body empty
    return made;
  }

  // (a, b=1), into names and items.
  void parameters(Node& of) {
    in_.need_sign("(");
    while (!in_.is_sign(")")) {
      of.names.push_back(in_.need_name());
      of.items.push_back(in_.take_sign("=") ? expressions_.expression() : nullptr);
      if (!in_.take_sign(",")) break;
    }
    in_.need_sign(")");
  }

  NodePtr macro(int line) {
    NodePtr made = in_.node(Kind::macro, line);
    made->text = in_.need_name();
    parameters(*made);
    const int around = std::exchange(loops_, 0);
    made->body = body("endmacro", line);
    loops_ = around;
    return made;
  }

  // The body becomes a macro named caller.
  NodePtr call_block(int line) {
    NodePtr caller = in_.node(Kind::macro, line);
    caller->text = "caller";
    if (in_.is_sign("(")) parameters(*caller);
    NodePtr made = in_.node_of(Kind::call_block, line, expressions_.expression());
    if (made->items[0]->kind != Kind::call) in_.malformed("call is given anything but a call");
    const int around = std::exchange(loops_, 0);
    caller->body = body("endcall", line);
    loops_ = around;
    made->items.push_back(std::move(caller));
    return made;
  }

  NodePtr with(int line) {
    NodePtr made = in_.node(Kind::with, line);
    while (!in_.is(TokenKind::block_end)) {
      made->names.push_back(in_.need_name());
      in_.need_sign("=");
      made->items.push_back(expressions_.expression());
      if (!in_.take_sign(",")) break;
    }
    made->body = body("endwith", line);
    return made;
  }

  TokenStream in_;
  ExpressionParser expressions_;
  int loops_ = 0;  // around the present place
};

}  // namespace

Nodes parse(std::string_view source, const std::string& name) { return Parser(source, name).run(); }

}  // namespace spillway::jinja
