#include "loader/jinja/filters.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "loader/jinja/python_text.h"

namespace spillway::jinja {
namespace {

// Jinja's filters on texts take anything and print it first.
template <std::string (*change)(std::string_view)>
Value changed(Context& context, const Value& of, const Arguments&) {
  const std::string text = to_text(of);
  context.charge(16 * static_cast<int64_t>(text.size()));
  return context.text(change(text));
}

Value trim(Context& context, const Value& of, const Arguments& arguments) {
  const std::string text = to_text(of);
  const Value* set = argument(arguments, 0, "chars");
  const bool white = !set || set->is_none();
  return context.text(std::string(stripped(text, white ? nullptr : &need_text(context, *set, "chars"), true, true)));
}

Value fallback(Context&, const Value& of, const Arguments& arguments) {
  const Value* other = argument(arguments, 0, "default_value");
  const Value* also_false = argument(arguments, 1, "boolean");
  const bool missing = of.is_undefined() || (also_false && also_false->truth() && !of.truth());
  return !missing ? of : other ? *other : Value("");
}

Value replace(Context& context, const Value& of, const Arguments& arguments) {
  const Value text(to_text(of));
  return context.call(method_of_text(context, text, "replace"), arguments);
}

Value string(Context& context, const Value& of, const Arguments&) { return context.text(to_text(of)); }

Value integer(Context& context, const Value& of, const Arguments& arguments) {
  const Value* given = argument(arguments, 0, "default");
  const Value other = given ? *given : Value(int64_t{0});
  if (of.integer() || of.boolean()) return Value(of.as_integer());
  if (of.real()) {
    if (!(std::abs(*of.real()) < 9.2e18)) return other;
    return Value(static_cast<int64_t>(*of.real()));
  }
  if (!of.text()) return other;
  const int64_t base = integer_argument(context, arguments, 1, "base", 10);
  if (base < 2 || base > 36) context.fail("int with a base that is none");
  std::string_view text = stripped(*of.text(), nullptr, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  int64_t number = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, static_cast<int>(base));
  if (result.ec == std::errc{} && result.ptr == text.data() + text.size()) return Value(number);
  double real = 0;
  const auto as_real = std::from_chars(text.data(), text.data() + text.size(), real);
  const bool whole = as_real.ec == std::errc{} && as_real.ptr == text.data() + text.size();
  return whole && std::abs(real) < 9.2e18 ? Value(static_cast<int64_t>(real)) : other;
}

Value real(Context&, const Value& of, const Arguments& arguments) {
  const Value* given = argument(arguments, 0, "default");
  if (of.is_number()) return Value(of.as_double());
  if (const std::string* text = of.text()) {
    const std::string_view digits = stripped(*text, nullptr, true, true);
    double number = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (result.ec == std::errc{} && result.ptr == digits.data() + digits.size()) return Value(number);
  }
  return given ? *given : Value(0.0);
}

Value absolute(Context& context, const Value& of, const Arguments&) {
  if (of.real()) return Value(std::abs(*of.real()));
  if (!of.is_number()) context.fail(fmt::format("abs of {}", of.type_name()));
  return of.as_integer() < 0 ? context.binary("-", Value(int64_t{0}), of) : Value(of.as_integer());
}

Value round(Context& context, const Value& of, const Arguments& arguments) {
  if (!of.is_number()) context.fail(fmt::format("round of {}", of.type_name()));
  const int64_t digits = integer_argument(context, arguments, 0, "precision", 0);
  const std::string method = text_argument(context, arguments, 1, "method", "common");
  if (digits < -15 || digits > 15) context.fail("round to so many digits");
  const double scale = std::pow(10.0, static_cast<double>(digits)), scaled = of.as_double() * scale;
  if (method == "ceil") return Value(std::ceil(scaled) / scale);
  if (method == "floor") return Value(std::floor(scaled) / scale);
  if (method != "common") context.fail("round by a method that is none of common, ceil, floor");
  return Value(std::nearbyint(scaled) / scale);
}

Value indent(Context& context, const Value& of, const Arguments& arguments) {
  const std::string text = to_text(of);
  const Value* width = argument(arguments, 0, "width");
  const Value* first = argument(arguments, 1, "first");
  const Value* blank = argument(arguments, 2, "blank");
  std::string prefix(4, ' ');
  if (width && width->text()) {
    prefix = *width->text();
  } else if (width) {
    const int64_t spaces = integer_argument(context, arguments, 0, "width", 4);
    context.charge(std::max<int64_t>(spaces, 0));
    prefix.assign(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
  }
  const std::string whole = text + "\n";
  std::string out = first && first->truth() ? prefix : "";
  bool begun = false;
  for (const std::string_view line : split_lines(whole, false)) {
    if (begun) {
      out += '\n';
      if (!line.empty() || (blank && blank->truth())) out += prefix;
    }
    begun = true;
    out += line;
    context.charge(static_cast<int64_t>(prefix.size() + line.size()));
  }
  return context.text(std::move(out));
}

Value safe(Context& context, const Value& of, const Arguments&) {
  Value marked = context.text(to_text(of));
  marked.markup = true;
  return marked;
}

Value escape(Context& context, const Value& of, const Arguments& arguments) {
  return of.markup ? of : safe(context, Value(escaped(context, to_text(of))), arguments);
}

// As transformers writes it in place of Jinja's own: nothing is escaped for HTML.
Value to_json_text(Context& context, const Value& of, const Arguments& arguments) {
  JsonStyle style;
  if (const Value* ascii = argument(arguments, 0, "ensure_ascii")) style.ascii = ascii->truth();
  style.indent = integer_argument(context, arguments, 1, "indent", -1);
  if (style.indent >= 0) style.item_separator = ',';  // as a character: g++ 12 warns of an overlap in the text's copy
  if (const Value* separators = argument(arguments, 2, "separators"); separators && !separators->is_none()) {
    const Sequence* pair = separators->sequence();
    if (!pair || pair->items.size() != 2) context.fail("tojson with separators that are no pair");
    style.item_separator = need_text(context, pair->items[0], "a separator");
    style.key_separator = need_text(context, pair->items[1], "a separator");
    context.charge(weight_of(of) * static_cast<int64_t>(style.item_separator.size() + style.key_separator.size()) / 4);
  }
  if (const Value* sorts = argument(arguments, 3, "sort_keys")) style.sort_keys = sorts->truth();
  return context.text(to_json(context, of, style));
}

Value words(Context&, const Value& of, const Arguments&) {
  return Value(static_cast<int64_t>(split_white(to_text(of), -1, false).size()));
}

}  // namespace

std::string escaped(Context& context, std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  context.charge(static_cast<int64_t>(out.size()));
  return out;
}

const std::map<std::string, Filter>& text_filters() {
  static const std::map<std::string, Filter> known{
      {"trim", trim},
      {"default", fallback},
      {"d", fallback},
      {"replace", replace},
      {"string", string},
      {"int", integer},
      {"float", real},
      {"abs", absolute},
      {"round", round},
      {"indent", indent},
      {"e", escape},
      {"escape", escape},
      {"safe", safe},
      {"tojson", to_json_text},
      {"wordcount", words},
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"title", changed<titled>},
      {"capitalize", changed<capitalized>},
  };
  return known;
}

Value Context::filter(const std::string& filter, const Value& of, const Arguments& arguments) {
  charge(1);
  for (const auto* table : {&text_filters(), &list_filters()}) {
    if (const auto found = table->find(filter); found != table->end()) return found->second(*this, of, arguments);
  }
  std::string list;
  for (const auto* table : {&text_filters(), &list_filters()}) {
    for (const auto& [name, ignored] : *table) list += (list.empty() ? "" : ", ") + name;
  }
  unknown("the filter \"" + filter + "\"", list);
}

}  // namespace spillway::jinja
