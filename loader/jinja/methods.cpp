// The methods that templates call on texts, lists and dicts. What would change a list or dict in place is refused, as
// transformers' sandbox refuses it.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "loader/jinja/context.h"
#include "loader/jinja/python_text.h"
#include "loader/printable.h"

namespace spillway::jinja {
namespace {

using TextMethod = Value (*)(Context&, const std::string&, const Arguments&);

const Value* given(const Arguments& arguments, size_t index, std::string_view name) {
  const Value* value = argument(arguments, index, name);
  return value && !value->is_none() ? value : nullptr;
}

Value texts(Context& context, const std::vector<std::string_view>& parts) {
  context.charge(32 * static_cast<int64_t>(parts.size()));
  List items;
  for (const std::string_view part : parts) items.emplace_back(part);
  return context.list(std::move(items));
}

template <bool left, bool right>
Value strip(Context& context, const std::string& of, const Arguments& arguments) {
  const Value* set = given(arguments, 0, "chars");
  return context.text(std::string(stripped(of, set ? &need_text(context, *set, "chars") : nullptr, left, right)));
}

template <bool from_right>
Value split(Context& context, const std::string& of, const Arguments& arguments) {
  const int64_t most = std::max<int64_t>(integer_argument(context, arguments, 1, "maxsplit", -1), -1);
  const Value* separator = given(arguments, 0, "sep");
  context.charge(static_cast<int64_t>(of.size()));
  if (!separator) return texts(context, split_white(of, most, from_right));
  const std::string& at = need_text(context, *separator, "sep");
  if (at.empty()) context.fail("a text is split at an empty one");
  return texts(context, split_at(of, at, most, from_right));
}

// startswith and endswith take one text or a tuple of them.
template <bool start>
Value has_end(Context& context, const std::string& of, const Arguments& arguments) {
  const Value* asked = argument(arguments, 0, "prefix");
  if (!asked) context.fail("startswith or endswith of nothing");
  const auto has = [&](const Value& one) {
    const std::string& text = need_text(context, one, "what a text begins or ends with");
    return start ? of.starts_with(text) : of.ends_with(text);
  };
  if (!asked->sequence()) return Value(has(*asked));
  return Value(std::any_of(asked->sequence()->items.begin(), asked->sequence()->items.end(), has));
}

template <bool start>
Value remove_end(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string end = text_argument(context, arguments, 0, start ? "prefix" : "suffix", "");
  if (start) return context.text(of.starts_with(end) ? of.substr(end.size()) : of);
  return context.text(of.ends_with(end) ? of.substr(0, of.size() - end.size()) : of);
}

template <bool from_right>
Value find_text(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string what = text_argument(context, arguments, 0, "sub", "");
  if (arguments.positional.size() > 1) context.unknown("find with bounds");
  context.charge(static_cast<int64_t>(of.size()));
  const size_t at = from_right ? of.rfind(what) : of.find(what);
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(characters(std::string_view(of).substr(0, at)).size()));
}

Value replace(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string from = text_argument(context, arguments, 0, "old", ""),
                    to = text_argument(context, arguments, 1, "new", "");
  const int64_t most = std::max<int64_t>(integer_argument(context, arguments, 2, "count", -1), -1);
  // What it may grow to is charged before it is made.
  const auto places = static_cast<int64_t>(of.size() / std::max<size_t>(1, from.size()) + 1);
  context.charge(to.size() > from.size() ? places * static_cast<int64_t>(to.size()) : 0);
  return context.text(replaced(of, from, to, most));
}

Value join(Context& context, const std::string& of, const Arguments& arguments) {
  if (arguments.positional.size() != 1) context.fail("join of nothing");
  std::string out;
  bool first = true;
  for (const Value& item : context.items_of(arguments.positional[0])) {
    if (!first) out += of;
    first = false;
    out += need_text(context, item, "an item that is joined");
    context.charge(static_cast<int64_t>(of.size() + item.text()->size()));
  }
  return Value(std::move(out));
}

Value count(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string what = text_argument(context, arguments, 0, "sub", "");
  if (what.empty()) return Value(static_cast<int64_t>(characters(of).size() + 1));
  context.charge(static_cast<int64_t>(of.size()));
  return Value(static_cast<int64_t>(split_at(of, what, -1, false).size()) - 1);
}

template <bool (*holds)(char)>
Value all_ascii(Context&, const std::string& of, const Arguments&) {
  return Value(!of.empty() && std::all_of(of.begin(), of.end(), holds));
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_either(char c) { return is_digit(c) || is_letter(c); }
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

template <std::string (*change)(std::string_view)>
Value changed(Context& context, const std::string& of, const Arguments&) {
  context.charge(16 * static_cast<int64_t>(of.size()));
  return context.text(change(of));
}

Value is_upper(Context&, const std::string& of, const Arguments&) { return Value(of == upper(of) && of != lower(of)); }
Value is_lower(Context&, const std::string& of, const Arguments&) { return Value(of == lower(of) && of != upper(of)); }

Value split_into_lines(Context& context, const std::string& of, const Arguments& arguments) {
  const Value* keep = argument(arguments, 0, "keepends");
  context.charge(static_cast<int64_t>(of.size()));
  return texts(context, split_lines(of, keep && keep->truth()));
}

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), is_digit);
}

// The argument that a field of format() names: {}, {0} or {name}. `taken` counts those without a number.
const Value& field(Context& context, const std::string& name, const Arguments& arguments, size_t* taken) {
  if (name.find_first_of("!:.[{") != std::string::npos) {
    context.unknown(fmt::format("format with the field {{{}}}", printable(name)));
  }
  if (name.empty() || is_number(name)) {
    const size_t index = name.empty() ? (*taken)++ : std::stoul(name);
    if (index >= arguments.positional.size()) context.fail("format has too few arguments for its fields");
    return arguments.positional[index];
  }
  const Value* named = argument(arguments, arguments.positional.size(), name.c_str());
  if (!named) context.fail(fmt::format("format without the argument {}", printable(name)));
  return *named;
}

Value format(Context& context, const std::string& of, const Arguments& arguments) {
  std::string out;
  size_t taken = 0;
  for (size_t i = 0; i < of.size(); ++i) {
    if (of[i] != '{' && of[i] != '}') {
      out += of[i];
    } else if (i + 1 < of.size() && of[i + 1] == of[i]) {
      out += of[i++];
    } else {
      const size_t end = of.find('}', i);
      if (of[i] == '}' || end == std::string::npos) context.fail("format of a text with a single brace");
      const std::string text = to_text(field(context, of.substr(i + 1, end - i - 1), arguments, &taken));
      context.charge(static_cast<int64_t>(text.size()));
      out += text;
      i = end;
    }
  }
  context.charge(static_cast<int64_t>(of.size()));
  return context.text(std::move(out));
}

const std::map<std::string, TextMethod>& text_methods() {
  static const std::map<std::string, TextMethod> known{
      {"strip", strip<true, true>},
      {"lstrip", strip<true, false>},
      {"rstrip", strip<false, true>},
      {"split", split<false>},
      {"rsplit", split<true>},
      {"splitlines", split_into_lines},
      {"startswith", has_end<true>},
      {"endswith", has_end<false>},
      {"removeprefix", remove_end<true>},
      {"removesuffix", remove_end<false>},
      {"find", find_text<false>},
      {"rfind", find_text<true>},
      {"replace", replace},
      {"join", join},
      {"format", format},
      {"count", count},
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"title", changed<titled>},
      {"capitalize", changed<capitalized>},
      {"isdigit", all_ascii<is_digit>},
      {"isnumeric", all_ascii<is_digit>},
      {"isdecimal", all_ascii<is_digit>},
      {"isalpha", all_ascii<is_letter>},
      {"isalnum", all_ascii<is_either>},
      {"isspace", all_ascii<is_blank>},
      {"isupper", is_upper},
      {"islower", is_lower},
  };
  return known;
}

Value bound(const Value& to, const std::string& name, std::function<Value(const Arguments&)> call) {
  return Value(std::make_shared<const Function>(Function{name, std::move(call), depth_of(to)}));
}

Value refused(Context& context, const std::string& name) {
  return bound({}, name, [&context, name](const Arguments&) -> Value {
    context.fail(fmt::format("{} would change a list or dict in place, which a chat template may not", name));
  });
}

}  // namespace

Value method_of_text(Context& context, const Value& of, const std::string& name) {
  const auto found = text_methods().find(name);
  if (found == text_methods().end()) return {};
  return bound(of, name, [&context, of, method = found->second](const Arguments& arguments) {
    return method(context, *of.text(), arguments);
  });
}

Value method_of_list(Context& context, const Value& of, const std::string& name) {
  for (const char* changes : {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"}) {
    if (name == changes) return refused(context, name);
  }
  if (name != "index" && name != "count") return {};
  return bound(of, name, [&context, of, name](const Arguments& arguments) {
    if (arguments.positional.size() != 1) context.unknown(name + " with bounds");
    const List& items = of.sequence()->items;
    int64_t count = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      if (!context.equals(items[i], arguments.positional[0])) continue;
      if (name == "index") return Value(static_cast<int64_t>(i));
      ++count;
    }
    if (name == "index") context.fail("index of an item that is not in the list");
    return Value(count);
  });
}

Value method_of_dict(Context& context, const Value& of, const std::string& name) {
  for (const char* changes : {"update", "pop", "popitem", "setdefault", "clear"}) {
    if (name == changes) return refused(context, name);
  }
  if (name == "get") {
    return bound(of, name, [&context, of](const Arguments& arguments) {
      const Value* key = argument(arguments, 0, "key");
      if (!key) context.fail("get of nothing");
      context.charge(static_cast<int64_t>(of.mapping()->items.size()));
      const Value* item = find(*of.mapping(), *key);
      const Value* fallback = argument(arguments, 1, "default");
      return item ? *item : fallback ? *fallback : Value::none();
    });
  }
  if (name == "copy") return bound(of, name, [of](const Arguments&) { return of; });
  if (name != "items" && name != "keys" && name != "values") return {};
  return bound(of, name, [&context, of, name](const Arguments&) {
    List all;
    for (const auto& [key, value] : of.mapping()->items) {
      all.push_back(name == "items" ? context.list({key, value}, SequenceKind::tuple) : name == "keys" ? key : value);
    }
    return context.list(std::move(all));
  });
}

}  // namespace spillway::jinja
