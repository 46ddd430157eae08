#include "loader/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace spillway::jinja {

NodePtr ExpressionParser::chain(Next next, std::initializer_list<std::string_view> operators, bool words) {
  TokenStream::Level level(in_);
  NodePtr left = (this->*next)();
  for (;;) {
    const bool fits = in_.is(words ? TokenKind::name : TokenKind::sign) &&
                      std::find(operators.begin(), operators.end(), in_.now().text) != operators.end();
    if (!fits) return left;
    level.deepen();
    const Token sign = in_.take();
    left = in_.node_of(Kind::binary, sign.line, std::move(left), (this->*next)());
    left->text = sign.text;
  }
}

NodePtr ExpressionParser::expression() {
  TokenStream::Level level(in_);
  NodePtr value = disjunction();
  while (in_.is_word("if")) {
    level.deepen();
    const int line = in_.take().line;
    NodePtr condition = disjunction();
    NodePtr other = in_.take_word("else") ? expression() : nullptr;
    value = in_.node_of(Kind::conditional, line, std::move(value), std::move(condition), std::move(other));
  }
  return value;
}

NodePtr ExpressionParser::without_conditional() {
  NodePtr first = disjunction();
  if (!in_.is_sign(",")) return first;
  NodePtr tuple = in_.node_of(Kind::tuple, in_.line(), std::move(first));
  while (in_.take_sign(",")) {
    if (in_.is(TokenKind::block_end) || in_.is_word("recursive")) break;
    tuple->items.push_back(disjunction());
  }
  return tuple;
}

NodePtr ExpressionParser::tuple_or_expression() {
  NodePtr first = expression();
  if (!in_.is_sign(",")) return first;
  NodePtr tuple = in_.node_of(Kind::tuple, in_.line(), std::move(first));
  while (in_.take_sign(",")) {
    if (in_.is(TokenKind::print_end) || in_.is(TokenKind::block_end) || in_.is_sign(")")) break;
    tuple->items.push_back(expression());
  }
  return tuple;
}

NodePtr ExpressionParser::disjunction() { return chain(&ExpressionParser::conjunction, {"or"}, true); }
NodePtr ExpressionParser::conjunction() { return chain(&ExpressionParser::negation, {"and"}, true); }

NodePtr ExpressionParser::negation() {
  if (!in_.is_word("not")) return comparison();
  TokenStream::Level level(in_);
  const int line = in_.take().line;
  NodePtr made = in_.node_of(Kind::unary, line, negation());
  made->text = "not";
  return made;
}

NodePtr ExpressionParser::comparison() {
  NodePtr first = sum();
  NodePtr made;
  for (;;) {
    std::string sign;
    if (in_.is(TokenKind::sign)) {
      for (const char* one : {"==", "!=", "<", "<=", ">", ">="}) {
        if (in_.now().text == one) sign = one;
      }
    } else if (in_.is_word("in")) {
      sign = "in";
    } else if (in_.is_word("not") && in_.after(1).kind == TokenKind::name && in_.after(1).text == "in") {
      in_.take();
      sign = "not in";
    }
    if (sign.empty()) return made ? std::move(made) : std::move(first);
    const int line = in_.take().line;
    if (!made) made = in_.node_of(Kind::comparison, line, std::move(first));
    made->names.push_back(sign);
    made->items.push_back(sum());
  }
}

NodePtr ExpressionParser::sum() { return chain(&ExpressionParser::concatenation, {"+", "-"}, false); }
NodePtr ExpressionParser::concatenation() { return chain(&ExpressionParser::product, {"~"}, false); }
NodePtr ExpressionParser::product() { return chain(&ExpressionParser::power, {"*", "/", "//", "%"}, false); }

NodePtr ExpressionParser::power() {
  TokenStream::Level level(in_);
  NodePtr left = unary(true);
  while (in_.is_sign("**")) {
    level.deepen();
    const Token sign = in_.take();
    left = in_.node_of(Kind::binary, sign.line, std::move(left), unary(true));
    left->text = sign.text;
  }
  return left;
}

NodePtr ExpressionParser::unary(bool with_filters) {
  TokenStream::Level level(in_);
  NodePtr value;
  if (in_.is_sign("-") || in_.is_sign("+")) {
    const Token sign = in_.take();
    value = in_.node_of(Kind::unary, sign.line, unary(false));
    value->text = sign.text;
  } else {
    value = primary();
  }
  value = postfix(std::move(value), level);
  return with_filters ? filters_and_tests(std::move(value), level) : std::move(value);
}

NodePtr ExpressionParser::postfix(NodePtr of, TokenStream::Level& level) {
  for (;;) {
    const int line = in_.line();
    if (in_.take_sign(".")) {
      NodePtr made = in_.node_of(Kind::attribute, line, std::move(of));
      if (in_.is(TokenKind::integer)) {
        made->kind = Kind::subscript;
        made->items.push_back(primary());
      } else {
        made->text = in_.need_name();
      }
      of = std::move(made);
    } else if (in_.is_sign("[")) {
      of = subscript_of(std::move(of));
    } else if (in_.is_sign("(")) {
      of = in_.node_of(Kind::call, line, std::move(of));
      arguments(*of);
    } else {
      return of;
    }
    level.deepen();
  }
}

NodePtr ExpressionParser::subscript_of(NodePtr of) {
  const int line = in_.line();
  in_.need_sign("[");
  NodePtr index;
  if (!in_.is_sign(":")) index = tuple_or_expression();
  if (in_.is_sign(":")) {
    NodePtr slice = in_.node_of(Kind::slice, line, std::move(index), NodePtr(), NodePtr());
    for (const size_t part : {1, 2}) {
      if (!in_.take_sign(":")) break;
      if (!in_.is_sign(":") && !in_.is_sign("]")) slice->items[part] = expression();
    }
    index = std::move(slice);
  }
  in_.need_sign("]");
  return in_.node_of(Kind::subscript, line, std::move(of), std::move(index));
}

void ExpressionParser::arguments(Node& call) {
  in_.need_sign("(");
  while (!in_.is_sign(")")) {
    if (in_.is_sign("*") || in_.is_sign("**")) in_.refuse("an argument list that is unpacked (*)");
    if (in_.is(TokenKind::name) && in_.after(1).kind == TokenKind::sign && in_.after(1).text == "=") {
      std::string name = in_.take().text;
      in_.take();
      call.named.emplace_back(std::move(name), expression());
    } else {
      if (!call.named.empty()) in_.malformed("an argument without a name stands behind one with a name");
      call.items.push_back(expression());
    }
    if (!in_.take_sign(",")) break;
  }
  in_.need_sign(")");
}

NodePtr ExpressionParser::filters_and_tests(NodePtr of, TokenStream::Level& level) {
  for (;;) {
    if (in_.take_sign("|")) {
      of = filter_of(std::move(of));
    } else if (in_.take_word("is")) {
      of = test_of(std::move(of));
    } else if (in_.is_sign("(")) {
      of = in_.node_of(Kind::call, in_.line(), std::move(of));
      arguments(*of);
    } else {
      return of;
    }
    level.deepen();
  }
}

NodePtr ExpressionParser::filter_of(NodePtr of) {
  NodePtr made = in_.node_of(Kind::filter, in_.line(), std::move(of));
  made->text = in_.need_name();
  if (in_.is_sign("(")) arguments(*made);
  return made;
}

NodePtr ExpressionParser::filter_chain() {
  TokenStream::Level level(in_);
  NodePtr made = filter_of(nullptr);
  while (in_.take_sign("|")) {
    level.deepen();
    made = filter_of(std::move(made));
  }
  return made;
}

bool ExpressionParser::argument_begins() const {
  const Token& token = in_.now();
  if (token.kind == TokenKind::name) {
    return token.text != "else" && token.text != "or" && token.text != "and" && token.text != "is" &&
           token.text != "if" && token.text != "not" && token.text != "in";
  }
  if (token.kind == TokenKind::sign) return token.text == "[" || token.text == "{";
  return token.kind == TokenKind::string || token.kind == TokenKind::integer || token.kind == TokenKind::real;
}

NodePtr ExpressionParser::test_of(NodePtr of) {
  const int line = in_.line();
  const bool negated = in_.take_word("not");
  NodePtr made = in_.node_of(Kind::test, line, std::move(of));
  made->text = in_.need_name();
  if (in_.is_word("is")) in_.malformed("a test stands behind a test: is ... is");
  if (in_.is_sign("(")) {
    arguments(*made);
  } else if (argument_begins()) {
    TokenStream::Level level(in_);
    made->items.push_back(postfix(primary(), level));
  }
  if (!negated) return made;
  NodePtr inverted = in_.node_of(Kind::unary, line, std::move(made));
  inverted->text = "not";
  return inverted;
}

NodePtr ExpressionParser::primary() {
  const int line = in_.line();
  if (in_.is(TokenKind::name)) return name_or_constant();
  if (in_.is(TokenKind::string)) {
    std::string text;
    while (in_.is(TokenKind::string)) text += in_.take().text;
    NodePtr made = in_.node(Kind::literal, line);
    made->value = Value(std::move(text));
    return made;
  }
  if (in_.is(TokenKind::integer)) {
    const std::string digits = in_.take().text;
    int64_t number = 0;
    const char mark = digits.size() > 1 ? static_cast<char>(digits[1] | 0x20) : '\0';
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    const char* begin = digits.data() + (base == 10 ? 0 : 2);
    if (std::from_chars(begin, digits.data() + digits.size(), number, base).ec != std::errc{}) {
      in_.refuse(fmt::format("the integer {}", message_text(digits)));
    }
    NodePtr made = in_.node(Kind::literal, line);
    made->value = Value(number);
    return made;
  }
  if (in_.is(TokenKind::real)) {
    NodePtr made = in_.node(Kind::literal, line);
    made->value = Value(std::strtod(in_.take().text.c_str(), nullptr));
    return made;
  }
  if (in_.is_sign("(")) return bracketed();
  if (in_.is_sign("[")) return list();
  if (in_.is_sign("{")) return dict();
  in_.unexpected();
}

NodePtr ExpressionParser::name_or_constant() {
  const Token token = in_.take();
  const std::string& text = token.text;
  NodePtr made = in_.node(Kind::literal, token.line);
  if (text == "true" || text == "True" || text == "false" || text == "False") {
    made->value = Value(text == "true" || text == "True");
  } else if (text == "none" || text == "None") {
    made->value = Value::none();
  } else {
    made->kind = Kind::name;
    made->text = text;
  }
  return made;
}

NodePtr ExpressionParser::bracketed() {
  const int line = in_.line();
  in_.need_sign("(");
  if (in_.take_sign(")")) return in_.node(Kind::tuple, line);
  NodePtr value = tuple_or_expression();
  in_.need_sign(")");
  return value;
}

NodePtr ExpressionParser::list() {
  NodePtr made = in_.node(Kind::list, in_.line());
  in_.need_sign("[");
  while (!in_.is_sign("]")) {
    made->items.push_back(expression());
    if (!in_.take_sign(",")) break;
  }
  in_.need_sign("]");
  return made;
}

NodePtr ExpressionParser::dict() {
  NodePtr made = in_.node(Kind::dict, in_.line());
  in_.need_sign("{");
  while (!in_.is_sign("}")) {
    made->items.push_back(expression());
    in_.need_sign(":");
    made->items.push_back(expression());
    if (!in_.take_sign(",")) break;
  }
  in_.need_sign("}");
  return made;
}

}  // namespace spillway::jinja
