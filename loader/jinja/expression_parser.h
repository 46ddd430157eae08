// Expressions of the template language, in Jinja's order of precedence.
#pragma once

#include "loader/jinja/token_stream.h"

namespace spillway::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : in_(tokens) {}

  NodePtr expression();           // with `a if b else c`
  NodePtr without_conditional();  // what stands after `in` of a for, before its `if`; after `if`
  NodePtr tuple_or_expression();  // a, b
  // name(arguments)|name...: what follows `|` of a block; the innermost filter has a null operand.
  NodePtr filter_chain();
  // "(...)" of a call, into `call`.
  void arguments(Node& call);

 private:
  using Next = NodePtr (ExpressionParser::*)();
  NodePtr chain(Next next, std::initializer_list<std::string_view> operators, bool words);
  NodePtr disjunction();
  NodePtr conjunction();
  NodePtr negation();
  NodePtr comparison();
  NodePtr sum();
  NodePtr concatenation();
  NodePtr product();
  NodePtr power();
  NodePtr unary(bool with_filters);
  NodePtr primary();
  NodePtr postfix(NodePtr of, TokenStream::Level& level);
  NodePtr filters_and_tests(NodePtr of, TokenStream::Level& level);
  NodePtr filter_of(NodePtr of);
  NodePtr test_of(NodePtr of);
  NodePtr subscript_of(NodePtr of);
  NodePtr name_or_constant();
  NodePtr bracketed();
  NodePtr list();
  NodePtr dict();
  bool argument_begins() const;

  TokenStream& in_;
};

}  // namespace spillway::jinja
