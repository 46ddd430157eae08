// The tests of the template language: what stands after `is`.
#include <algorithm>
#include <map>

#include "loader/jinja/context.h"
#include "loader/jinja/python_text.h"

namespace spillway::jinja {
namespace {

using Test = bool (*)(Context&, const Value&, const List&);

bool iterable(const Value& of) { return of.sequence() || of.mapping() || of.text() || of.is_undefined(); }

bool ordered(Context& context, const Value& a, const Value& b) {
  bool comparable = false;
  const bool result = less(a, b, comparable);
  if (!comparable) context.fail(std::string(a.type_name()) + " and " + b.type_name() + " have no order");
  return result;
}

template <int64_t rest>
bool modulo_two(Context& context, const Value& of, const List&) {
  if (!of.integer() && !of.boolean()) context.fail("even or odd of what is no integer");
  return (of.as_integer() % 2 != 0) == (rest != 0);
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
      {"sequence",
       [](Context&, const Value& of, const List&) {
         return (of.sequence() && !of.is_generator()) || of.text() || of.mapping() || of.is_undefined();
       }},
      {"iterable", [](Context&, const Value& of, const List&) { return iterable(of); }},
      {"callable", [](Context&, const Value& of, const List&) { return of.function() != nullptr; }},
      {"odd", modulo_two<1>},
      {"even", modulo_two<0>},
      {"upper",
       [](Context&, const Value& of, const List&) {
         return of.text() && *of.text() == upper(*of.text()) && *of.text() != lower(*of.text());
       }},
      {"lower",
       [](Context&, const Value& of, const List&) {
         return of.text() && *of.text() == lower(*of.text()) && *of.text() != upper(*of.text());
       }},
  };
  return known;
}

const std::map<std::string, Test>& comparisons() {
  static const Test equals = [](Context& context, const Value& of, const List& with) {
    return context.equals(of, with[0]);
  };
  static const Test less_than = [](Context& context, const Value& of, const List& with) {
    return ordered(context, of, with[0]);
  };
  static const Test greater = [](Context& context, const Value& of, const List& with) {
    return ordered(context, with[0], of);
  };
  static const std::map<std::string, Test> known{
      {"eq", equals},
      {"equalto", equals},
      {"==", equals},
      {"sameas", equals},
      {"ne", [](Context& context, const Value& of, const List& with) { return !context.equals(of, with[0]); }},
      {"lt", less_than},
      {"lessthan", less_than},
      {"gt", greater},
      {"greaterthan", greater},
      {"le", [](Context& context, const Value& of, const List& with) { return !ordered(context, with[0], of); }},
      {"ge", [](Context& context, const Value& of, const List& with) { return !ordered(context, of, with[0]); }},
      {"in", [](Context& context, const Value& of, const List& with) { return context.contains(with[0], of); }},
      {"divisibleby",
       [](Context& context, const Value& of, const List& with) {
         if (!of.integer() || !with[0].integer()) context.fail("divisibleby of what is no integer");
         return context.binary("%", of, with[0]).as_integer() == 0;
       }},
  };
  return known;
}

}  // namespace

bool Context::test(const std::string& test, const Value& of, const List& arguments) {
  charge(1);
  if (const auto found = tests().find(test); found != tests().end()) return found->second(*this, of, arguments);
  const auto found = comparisons().find(test);
  if (found == comparisons().end()) {
    std::string list;
    for (const auto* table : {&tests(), &comparisons()}) {
      for (const auto& [name, ignored] : *table) list += (list.empty() ? "" : ", ") + name;
    }
    unknown("the test \"" + test + "\"", list);
  }
  if (arguments.size() != 1) fail("the test \"" + test + "\" takes one argument");
  return found->second(*this, of, arguments);
}

}  // namespace spillway::jinja
