#include "loader/jinja/filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "loader/jinja/character_kinds.h"
#include "loader/jinja/letter_case.h"
#include "loader/jinja/number_reading.h"
#include "loader/jinja/python_text.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {
namespace {

Value marked_like(const Value& of, Value text) {
  text.markup = of.markup;
  return text;
}

// Jinja's filters on texts take anything and print it first.
template <std::string (*change)(std::string_view)>
Value changed(Context& context, const Value& of, const Arguments&) {
  const std::string text = to_text(of);
  context.charge(16 * static_cast<int64_t>(text.size()));
  return marked_like(of, context.text(change(text)));
}

// Its pieces are put together anew, and so are not marked.
Value title(Context& context, const Value& of, const Arguments& arguments) {
  return marked_like({}, changed<titled_words>(context, of, arguments));
}

Value trim(Context& context, const Value& of, const Arguments& arguments) {
  const std::string text = to_text(of);
  context.charge(static_cast<int64_t>(text.size()));
  const Value* set = argument(arguments, 0, "chars");
  const bool white = !set || set->is_none();
  return marked_like(
      of, context.text(std::string(stripped(text, white ? nullptr : &need_text(context, *set, "chars"), true, true))));
}

Value fallback(Context&, const Value& of, const Arguments& arguments) {
  const Value* other = argument(arguments, 0, "default_value");
  const Value* also_false = argument(arguments, 1, "boolean");
  const bool missing = of.is_undefined() || (also_false && also_false->truth() && !of.truth());
  return !missing ? of : other ? *other : Value("");
}

// Prints what is replaced, and by what, as Jinja does.
Value replace(Context& context, const Value& of, const Arguments& arguments) {
  Arguments printed = arguments;
  for (size_t i = 0; i < std::min<size_t>(2, printed.positional.size()); ++i) {
    printed.positional[i] = context.text(to_text(printed.positional[i]));
  }
  return context.call(method_of_text(context, context.text(to_text(of)), "replace"), printed);
}

Value string(Context& context, const Value& of, const Arguments&) { return marked_like(of, context.text(to_text(of))); }

const Value& need_defined(const Context& context, const Value& of, const char* use) {
  if (of.is_undefined()) context.fail(fmt::format("{} of what is undefined", use));
  return of;
}

// What is no number of this base may still be a real one, without its fraction: "42.9".
Value integer(Context& context, const Value& of, const Arguments& arguments) {
  const Value* given = argument(arguments, 0, "default");
  const Value other = given ? *given : Value(int64_t{0});
  need_defined(context, of, "int");
  if (of.integer() || of.boolean()) return Value(of.as_integer());
  std::optional<int64_t> number;
  if (of.real()) {
    number = whole_part(context, *of.real());
  } else if (const std::string* text = of.text()) {
    context.charge(2 * static_cast<int64_t>(text->size()));
    const Value* base = argument(arguments, 1, "base");
    if (!base || base->integer() || base->boolean()) {
      number = read_integer(context, *text, base ? base->as_integer() : 10);
    }
    const std::optional<double> real = number ? std::nullopt : read_real(*text);
    if (real) number = whole_part(context, *real);
  }
  return number ? Value(*number) : other;
}

Value real(Context& context, const Value& of, const Arguments& arguments) {
  const Value* given = argument(arguments, 0, "default");
  if (need_defined(context, of, "float").is_number()) return Value(of.as_double());
  const std::optional<double> number = of.text() ? read_real(*of.text()) : std::nullopt;
  return number ? Value(*number) : given ? *given : Value(0.0);
}

Value absolute(Context& context, const Value& of, const Arguments&) {
  if (of.real()) return Value(std::abs(*of.real()));
  if (!of.is_number()) context.fail(fmt::format("abs of {}", of.type_name()));
  return of.as_integer() < 0 ? context.binary("-", Value(int64_t{0}), of) : Value(of.as_integer());
}

// To the nearest, to the even one of two (Python's round of an integer).
int64_t rounded(int64_t number, int64_t unit) {
  const int64_t rest = ((number % unit) + unit) % unit, below = (number - rest) / unit;
  const bool up = rest * 2 > unit || (rest * 2 == unit && below % 2 != 0);
  return (below + (up ? 1 : 0)) * unit;
}

Value round(Context& context, const Value& of, const Arguments& arguments) {
  if (!of.is_number()) context.fail(fmt::format("round of {}", of.type_name()));
  const int64_t digits = integer_argument(context, arguments, 0, "precision", 0);
  const std::string method = text_argument(context, arguments, 1, "method", "common");
  if (digits < -15 || digits > 15) context.fail("round to so many digits");
  const double scale = std::pow(10.0, static_cast<double>(digits)), number = of.as_double();
  if (method == "ceil") return Value(std::ceil(number * scale) / scale);
  if (method == "floor") return Value(std::floor(number * scale) / scale);
  if (method != "common") context.fail("round by a method that is none of common, ceil, floor");
  if (!of.real() && digits >= 0) return Value(of.as_integer());
  if (!of.real()) {
    if (std::abs(number) > 1e18) context.fail("an integer beyond 64 bits");
    return Value(rounded(of.as_integer(), static_cast<int64_t>(std::pow(10.0, static_cast<double>(-digits)))));
  }
  if (!std::isfinite(number)) return of;
  if (digits < 0) return Value(std::nearbyint(number * scale) / scale);
  // The decimal digits themselves are rounded, as Python does: 1.115 is a little less than it looks.
  return Value(std::strtod(fmt::format("{:.{}f}", number, digits).c_str(), nullptr));
}

Value indent(Context& context, const Value& of, const Arguments& arguments) {
  const std::string& text = need_text(context, of, "what is indented");
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
  return marked_like(of, context.text(std::move(out)));
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

// Runs of letters, digits and underscores (\w+).
Value words(Context& context, const Value& of, const Arguments&) {
  const std::string text = to_text(of);
  context.charge(16 * static_cast<int64_t>(text.size()));
  int64_t count = 0;
  bool inside = false;
  for (const std::string_view character : characters(text)) {
    const bool word = character == "_" || is_alphanumeric(character);
    count += word && !inside;
    inside = word;
  }
  return Value(count);
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
      {"title", title},
      {"capitalize", changed<capitalized>},
  };
  return known;
}

namespace {

// The arguments of filters that take some, in order. What is not listed takes none, but for those that hand on what
// they are given.
constexpr std::pair<std::string_view, std::string_view> kArguments[] = {
    {"batch", "linecount fill_with"},
    {"d", "default_value boolean"},
    {"default", "default_value boolean"},
    {"dictsort", "case_sensitive by reverse"},
    {"float", "default"},
    {"indent", "width first blank"},
    {"int", "default base"},
    {"join", "d attribute"},
    {"max", "case_sensitive attribute"},
    {"min", "case_sensitive attribute"},
    {"replace", "old new count"},
    {"round", "precision method"},
    {"sort", "reverse case_sensitive attribute"},
    {"sum", "attribute start"},
    {"tojson", "ensure_ascii indent separators sort_keys"},
    {"trim", "chars"},
    {"unique", "case_sensitive attribute"},
};
constexpr std::string_view kHandOn[] = {"map", "select", "reject", "selectattr", "rejectattr"};

void check_arguments(const Context& context, const std::string& filter, const Arguments& arguments) {
  if (arguments.positional.empty() && arguments.named.empty()) return;
  if (std::find(std::begin(kHandOn), std::end(kHandOn), filter) != std::end(kHandOn)) return;
  const auto* row =
      std::find_if(std::begin(kArguments), std::end(kArguments), [&](const auto& one) { return one.first == filter; });
  const std::vector<std::string_view> names =
      row == std::end(kArguments) ? std::vector<std::string_view>() : split_at(row->second, " ", -1, false);
  if (arguments.positional.size() > names.size()) {
    context.fail(fmt::format("the filter \"{}\" takes {} arguments at most", filter, names.size()));
  }
  for (const auto& [name, value] : arguments.named) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    context.unknown(fmt::format("the argument \"{}\" of the filter \"{}\"", message_text(name), filter));
  }
}

}  // namespace

Value Context::filter(const std::string& filter, const Value& of, const Arguments& arguments) {
  charge(1);
  for (const auto* table : {&text_filters(), &list_filters(), &order_filters()}) {
    const auto found = table->find(filter);
    if (found == table->end()) continue;
    check_arguments(*this, filter, arguments);
    return found->second(*this, of, arguments);
  }
  std::string list;
  for (const auto* table : {&text_filters(), &list_filters(), &order_filters()}) {
    for (const auto& [name, ignored] : *table) list += (list.empty() ? "" : ", ") + name;
  }
  unknown(fmt::format("the filter \"{}\"", message_text(filter)), list);
}

}  // namespace spillway::jinja
