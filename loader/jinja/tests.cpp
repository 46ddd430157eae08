// The tests of the template language: what stands after `is`.
#include <fmt/format.h>

#include <map>

#include "loader/jinja/context.h"
#include "loader/jinja/letter_case.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {
namespace {

using Test = bool (*)(Context&, const Value&, const List&);

bool iterable(const Value& of) { return of.sequence() || of.mapping() || of.text() || of.is_undefined(); }

// value % 2 == rest, of any number.
template <int64_t rest>
bool modulo_two(Context& context, const Value& of, const List&) {
  return context.equals(context.binary("%", of, Value(int64_t{2})), Value(rest));
}

// Of what is printed, as Jinja has it.
template <bool (*holds)(std::string_view)>
bool is_in_case(Context& context, const Value& of, const List&) {
  const std::string text = to_text(of);
  context.charge(16 * static_cast<int64_t>(text.size()));
  return holds(text);
}

const std::map<std::string, Test>& tests() {
  static const std::map<std::string, Test> known{
      {"defined", [](Context&, const Value& of, const List&) { return !of.is_undefined(); }},
      {"undefined", [](Context&, const Value& of, const List&) { return of.is_undefined(); }},
      {"none", [](Context&, const Value& of, const List&) { return of.is_none(); }},
      {"true", [](Context&, const Value& of, const List&) { return of.boolean() && *of.boolean(); }},
      {"false", [](Context&, const Value& of, const List&) { return of.boolean() && !*of.boolean(); }},
      {"boolean", [](Context&, const Value& of, const List&) { return of.boolean() != nullptr; }},
      {"integer", [](Context&, const Value& of, const List&) { return of.integer() != nullptr; }},
      {"float", [](Context&, const Value& of, const List&) { return of.real() != nullptr; }},
      {"number", [](Context&, const Value& of, const List&) { return of.is_number(); }},
      {"string", [](Context&, const Value& of, const List&) { return of.text() != nullptr; }},
      {"mapping", [](Context&, const Value& of, const List&) { return of.mapping() != nullptr; }},
      {"sequence", [](Context&, const Value& of,
                      const List&) { return of.has_places() || of.text() || of.mapping() || of.is_undefined(); }},
      {"iterable", [](Context&, const Value& of, const List&) { return iterable(of); }},
      {"callable", [](Context&, const Value& of, const List&) { return of.function() || of.is_undefined(); }},
      {"odd", modulo_two<1>},
      {"even", modulo_two<0>},
      {"upper", is_in_case<is_upper>},
      {"lower", is_in_case<is_lower>},
      {"escaped", [](Context&, const Value& of, const List&) { return of.markup; }},
  };
  return known;
}

const std::map<std::string, Test>& comparisons() {
  static const Test equal = [](Context& context, const Value& of, const List& with) {
    return context.equals(of, with[0]);
  };
  static const Test unequal = [](Context& context, const Value& of, const List& with) {
    return !context.equals(of, with[0]);
  };
  static const Test less = [](Context& context, const Value& of, const List& with) {
    return context.order(of, with[0]) < 0;
  };
  static const Test greater = [](Context& context, const Value& of, const List& with) {
    return context.order(of, with[0]) > 0;
  };
  static const Test at_most = [](Context& context, const Value& of, const List& with) {
    return context.order(of, with[0]) <= 0;
  };
  static const Test at_least = [](Context& context, const Value& of, const List& with) {
    return context.order(of, with[0]) >= 0;
  };
  static const std::map<std::string, Test> known{
      {"eq", equal},
      {"equalto", equal},
      {"==", equal},
      {"ne", unequal},
      {"!=", unequal},
      {"lt", less},
      {"lessthan", less},
      {"<", less},
      {"gt", greater},
      {"greaterthan", greater},
      {">", greater},
      {"le", at_most},
      {"<=", at_most},
      {"ge", at_least},
      {">=", at_least},
      {"sameas", [](Context& context, const Value& of, const List& with) { return context.same(of, with[0]); }},
      {"in", [](Context& context, const Value& of, const List& with) { return context.contains(with[0], of); }},
      {"divisibleby",
       [](Context& context, const Value& of, const List& with) {
         return context.equals(context.binary("%", of, with[0]), Value(int64_t{0}));
       }},
  };
  return known;
}

}  // namespace

bool Context::test(const std::string& test, const Value& of, const List& arguments) {
  charge(1);
  if (const auto found = tests().find(test); found != tests().end()) {
    if (!arguments.empty()) fail("the test \"" + test + "\" takes no argument");
    return found->second(*this, of, arguments);
  }
  const auto found = comparisons().find(test);
  if (found == comparisons().end()) {
    std::string list;
    for (const auto* table : {&tests(), &comparisons()}) {
      for (const auto& [name, ignored] : *table) list += (list.empty() ? "" : ", ") + name;
    }
    unknown(fmt::format("the test \"{}\"", message_text(test)), list);
  }
  if (arguments.size() != 1) fail("the test \"" + test + "\" takes one argument");
  return found->second(*this, of, arguments);
}

}  // namespace spillway::jinja
