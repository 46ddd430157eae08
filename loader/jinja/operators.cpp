// The arithmetic of the template language: Python's, without its boundless integers.
#include <fmt/format.h>

#include <cmath>

#include "loader/jinja/context.h"

namespace spillway::jinja {
namespace {

Value power(Context& context, const Value& left, const Value& right) {
  if (left.real() || right.real() || right.as_integer() < 0) {
    const double base = left.as_double(), exponent = right.as_double();
    if (base == 0 && exponent < 0) context.fail("a division by zero");
    const double result = std::pow(base, exponent);
    if (std::isnan(result) && !std::isnan(base) && !std::isnan(exponent)) context.unknown("a complex number");
    if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent))
      context.fail("a number that is too large");
    return Value(result);
  }
  int64_t result = 1, factor = left.as_integer();
  for (int64_t rest = right.as_integer(); rest > 0; rest /= 2) {
    bool overflow = rest % 2 != 0 && __builtin_mul_overflow(result, factor, &result);
    overflow = (rest > 1 && __builtin_mul_overflow(factor, factor, &factor)) || overflow;
    if (overflow) context.fail("an integer beyond 64 bits");
  }
  return Value(result);
}

int64_t integers(Context& context, const std::string& sign, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflow = false;
  if (sign == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (sign == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (sign == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else {
    if (right == 0) context.fail("a division by zero");
    if (right == -1) {
      overflow = __builtin_sub_overflow(int64_t{0}, sign == "%" ? 0 : left, &result);
    } else {
      const int64_t quotient = left / right, rest = left % right;
      const bool down = rest != 0 && (rest < 0) != (right < 0);  // towards minus infinity
      result = sign == "%" ? rest + (down ? right : 0) : quotient - (down ? 1 : 0);
    }
  }
  if (overflow) context.fail("an integer beyond 64 bits");
  return result;
}

double reals(Context& context, const std::string& sign, double left, double right) {
  if (sign == "+") return left + right;
  if (sign == "-") return left - right;
  if (sign == "*") return left * right;
  if (right == 0) context.fail("a division by zero");
  if (sign == "/") return left / right;
  // Exact, with the divisor's sign (CPython's float_divmod).
  double rest = std::fmod(left, right);
  double quotient = (left - rest) / right;
  if (rest != 0 && (rest < 0) != (right < 0)) {
    rest += right;
    quotient -= 1;
  }
  if (sign == "%") return rest != 0 ? rest : std::copysign(0.0, right);
  if (quotient == 0) return std::copysign(0.0, left / right);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

// A text or list, so many times.
Value repeated(Context& context, const Value& of, int64_t times) {
  times = std::max<int64_t>(times, 0);
  int64_t weight = 0;
  if (__builtin_mul_overflow(weight_of(of), times, &weight)) context.fail("a text that is repeated too often");
  context.charge(weight);
  if (const std::string* text = of.text()) {
    std::string made;
    for (int64_t i = 0; i < times; ++i) made += *text;
    Value whole(std::move(made));
    whole.markup = of.markup;
    return whole;
  }
  List made;
  for (int64_t i = 0; i < times; ++i) {
    made.insert(made.end(), of.sequence()->items.begin(), of.sequence()->items.end());
  }
  return context.list(std::move(made), of.sequence()->kind);
}

// A text after another; where one is marked as markup, the other is escaped, and the whole is marked.
Value joined(Context& context, const Value& left, const Value& right) {
  const bool markup = left.markup || right.markup;
  const auto part = [&](const Value& side) {
    return markup && !side.markup ? escaped(context, *side.text()) : *side.text();
  };
  Value whole = context.text(part(left) + part(right));
  whole.markup = markup;
  return whole;
}

}  // namespace

Value Context::binary(const std::string& sign, const Value& left, const Value& right) {
  if (sign == "~") return text(to_text(left) + to_text(right));
  if (sign == "+" && left.text() && right.text()) return joined(*this, left, right);
  if (left.is_number() && right.is_number()) {
    if (sign == "**") return power(*this, left, right);
    if (sign == "/" && !left.real() && !right.real() && right.as_integer() != 0) {
      // A double does not hold every integer.
      const long double whole = left.as_integer(), by = right.as_integer();
      return Value(static_cast<double>(whole / by));
    }
    if (left.real() || right.real() || sign == "/")
      return Value(reals(*this, sign, left.as_double(), right.as_double()));
    return Value(integers(*this, sign, left.as_integer(), right.as_integer()));
  }
  const auto is_chain = [](const Value& of) { return of.is(SequenceKind::list) || of.is(SequenceKind::tuple); };
  if (sign == "+" && is_chain(left) && is_chain(right) && left.sequence()->kind == right.sequence()->kind) {
    List items = left.sequence()->items;
    items.insert(items.end(), right.sequence()->items.begin(), right.sequence()->items.end());
    return list(std::move(items), left.sequence()->kind);
  }
  const auto repeats = [&](const Value& of, const Value& times) {
    return (of.text() || is_chain(of)) && (times.integer() || times.boolean());
  };
  if (sign == "*" && repeats(left, right)) return repeated(*this, left, right.as_integer());
  if (sign == "*" && repeats(right, left)) return repeated(*this, right, left.as_integer());
  if (sign == "%" && left.text()) unknown("formatting with %");
  for (const Value* side : {&left, &right}) {
    if (const auto* missing = std::get_if<Undefined>(&side->data))
      fail(fmt::format("\"{}\" is undefined", missing->name));
  }
  fail(fmt::format("{} {} {} cannot be computed", left.type_name(), sign, right.type_name()));
}

}  // namespace spillway::jinja
