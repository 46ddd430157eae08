// The methods that templates call on texts, lists and dicts. What would change a list or dict in place is refused, as
// transformers' sandbox refuses it.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "loader/jinja/character_kinds.h"
#include "loader/jinja/context.h"
#include "loader/jinja/letter_case.h"
#include "loader/jinja/python_text.h"
#include "loader/text/message_text.h"

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
  context.charge_search(of, at);
  return texts(context, split_at(of, at, most, from_right));
}

// The part of a text between the characters `start` and `end`, which find and its like may be given behind what they
// look for.
struct Part {
  std::string_view text;
  int64_t begin;    // in characters
  bool is_outside;  // begins behind the end: not even an empty text is found there
};
Part part_of(Context& context, const std::string& of, const Arguments& arguments) {
  if (arguments.positional.size() < 2) return {of, 0, false};
  context.charge(16 * static_cast<int64_t>(of.size()));
  const std::vector<std::string_view> all = characters(of);
  const auto size = static_cast<int64_t>(all.size());
  const auto bound = [&](size_t index, std::string_view name, int64_t fallback) {
    const int64_t at = integer_argument(context, arguments, index, name, fallback);
    return std::min(std::max<int64_t>(at < 0 ? at + size : at, 0), index == 1 ? size + 1 : size);
  };
  const int64_t begin = bound(1, "start", 0), end = bound(2, "end", size);
  if (begin > end) return {{}, begin, true};
  const auto offset = [&](int64_t at) {
    return at == size ? of.size() : static_cast<size_t>(all[static_cast<size_t>(at)].data() - of.data());
  };
  return {std::string_view(of).substr(offset(begin), offset(end) - offset(begin)), begin, false};
}

// startswith and endswith take one text or a tuple of them.
template <bool start>
Value has_end(Context& context, const std::string& of, const Arguments& arguments) {
  if (arguments.positional.empty()) context.fail("startswith or endswith of nothing");
  const Value& asked = arguments.positional[0];
  const Part part = part_of(context, of, arguments);
  const auto has = [&](const Value& one) {
    const std::string& text = need_text(context, one, "what a text begins or ends with");
    return !part.is_outside && (start ? part.text.starts_with(text) : part.text.ends_with(text));
  };
  if (!asked.is(SequenceKind::tuple)) return Value(has(asked));
  return Value(std::any_of(asked.sequence()->items.begin(), asked.sequence()->items.end(), has));
}

template <bool start>
Value remove_end(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string end = text_argument(context, arguments, 0, start ? "prefix" : "suffix", "");
  if (start) return context.text(of.starts_with(end) ? of.substr(end.size()) : of);
  return context.text(of.ends_with(end) ? of.substr(0, of.size() - end.size()) : of);
}

// find, rfind, and index and rindex, which insist.
template <bool from_right, bool must_be>
Value find_text(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string what = text_argument(context, arguments, 0, "sub", "");
  const Part part = part_of(context, of, arguments);
  context.charge(static_cast<int64_t>(of.size()));
  context.charge_search(part.text, what);
  const size_t at = part.is_outside ? std::string::npos : from_right ? part.text.rfind(what) : part.text.find(what);
  if (at == std::string::npos && must_be) context.fail("index of a text that is not in the other");
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(part.begin + static_cast<int64_t>(characters(part.text.substr(0, at)).size()));
}

Value replace(Context& context, const std::string& of, const Arguments& arguments) {
  const std::string from = text_argument(context, arguments, 0, "old", ""),
                    to = text_argument(context, arguments, 1, "new", "");
  const int64_t most = std::max<int64_t>(integer_argument(context, arguments, 2, "count", -1), -1);
  context.charge_search(of, from);
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
  const Part part = part_of(context, of, arguments);
  context.charge(static_cast<int64_t>(of.size()));
  context.charge_search(part.text, what);
  if (part.is_outside) return Value(int64_t{0});
  if (what.empty()) return Value(static_cast<int64_t>(characters(part.text).size() + 1));
  return Value(static_cast<int64_t>(split_at(part.text, what, -1, false).size()) - 1);
}

// At least one character, and all of a kind.
template <bool (*holds)(std::string_view)>
Value all_of_kind(Context& context, const std::string& of, const Arguments&) {
  context.charge(static_cast<int64_t>(of.size()));
  const std::vector<std::string_view> all = characters(of);
  return Value(!all.empty() && std::all_of(all.begin(), all.end(), holds));
}

template <std::string (*change)(std::string_view)>
Value changed(Context& context, const std::string& of, const Arguments&) {
  context.charge(16 * static_cast<int64_t>(of.size()));
  return context.text(change(of));
}

template <bool (*holds)(std::string_view)>
Value is_in_case(Context& context, const std::string& of, const Arguments&) {
  context.charge(16 * static_cast<int64_t>(of.size()));
  return Value(holds(of));
}

Value split_into_lines(Context& context, const std::string& of, const Arguments& arguments) {
  const Value* keep = argument(arguments, 0, "keepends");
  context.charge(static_cast<int64_t>(of.size()));
  return texts(context, split_lines(of, keep && keep->truth()));
}

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The argument that a field of format() names: {}, {0} or {name}. `taken` counts those without a number.
const Value& field(Context& context, const std::string& name, const Arguments& arguments, size_t* taken) {
  if (name.find_first_of("!:.[{") != std::string::npos) {
    context.unknown(fmt::format("format with the field {{{}}}", message_text(name)));
  }
  if (name.empty() || is_number(name)) {
    const size_t index = name.empty() ? (*taken)++ : std::stoul(name);
    if (index >= arguments.positional.size()) context.fail("format has too few arguments for its fields");
    return arguments.positional[index];
  }
  const Value* named = argument(arguments, arguments.positional.size(), name.c_str());
  if (!named) context.fail(fmt::format("format without the argument {}", message_text(name)));
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
      {"find", find_text<false, false>},
      {"rfind", find_text<true, false>},
      {"index", find_text<false, true>},
      {"rindex", find_text<true, true>},
      {"replace", replace},
      {"join", join},
      {"format", format},
      {"count", count},
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"title", changed<titled>},
      {"capitalize", changed<capitalized>},
      {"isdecimal", all_of_kind<is_decimal>},
      {"isdigit", all_of_kind<is_digit>},
      {"isnumeric", all_of_kind<is_numeric>},
      {"isalpha", all_of_kind<is_letter>},
      {"isalnum", all_of_kind<is_alphanumeric>},
      {"isspace", all_of_kind<is_space>},
      {"isupper", is_in_case<is_upper>},
      {"islower", is_in_case<is_lower>},
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
    Value made = method(context, *of.text(), arguments);
    made.markup = of.markup && made.text();
    return made;
  });
}

Value method_of_list(Context& context, const Value& of, const std::string& name) {
  if (!of.has_places()) return {};
  for (const char* changes : {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"}) {
    if (name == changes) return refused(context, name);
  }
  if (name != "index" && name != "count") return {};
  return bound(of, name, [&context, of, name](const Arguments& arguments) {
    if (arguments.positional.size() != 1) context.unknown(name + " with bounds");
    const List& items = of.sequence()->items;
    context.charge(static_cast<int64_t>(items.size()));
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
      context.need_key(*key);
      const Value* item = context.find(*of.mapping(), *key);
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
    return context.list(std::move(all), name == "items"  ? SequenceKind::items
                                        : name == "keys" ? SequenceKind::keys
                                                         : SequenceKind::values);
  });
}

}  // namespace spillway::jinja
