#include <fmt/format.h>

#include <algorithm>

#include "loader/jinja/filters.h"
#include "loader/jinja/python_text.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {
namespace {

// Of an item what is given in its place; nothing where it is left out.
using Change = std::function<std::optional<Value>(const Value& item)>;

std::optional<Value> nothing() { return std::nullopt; }

Walk changed(Walk items, Change change) {
  return [items = std::move(items), change = std::move(change)]() -> std::optional<Value> {
    while (const std::optional<Value> item = items()) {
      if (std::optional<Value> made = change(*item)) return made;
    }
    return std::nullopt;
  };
}

Value length(Context& context, const Value& of, const Arguments&) {
  if (const std::string* text = of.text()) {
    context.charge(static_cast<int64_t>(text->size()));
    return Value(static_cast<int64_t>(characters(*text).size()));
  }
  if (of.sequence() && !of.is_generator()) return Value(static_cast<int64_t>(of.sequence()->items.size()));
  if (of.mapping()) return Value(static_cast<int64_t>(of.mapping()->items.size()));
  if (of.is_undefined()) return Value(int64_t{0});
  context.fail(fmt::format("the length of {}", of.type_name()));
}

Value first(Context& context, const Value& of, const Arguments&) {
  std::optional<Value> item = context.walk(of)();
  return item ? std::move(*item) : Value::undefined("the first of nothing");
}

Value last(Context& context, const Value& of, const Arguments&) {
  if (of.is_generator()) context.fail("the last item of a generator");
  const List items = context.items_of(of);
  return items.empty() ? Value::undefined("the last of nothing") : items.back();
}

Value list(Context& context, const Value& of, const Arguments&) { return context.list(context.items_of(of)); }

Value items(Context& context, const Value& of, const Arguments& arguments) {
  return lazily(context, of, arguments, [&context, of]() -> Walk {
    if (of.is_undefined()) return nothing;
    if (!of.mapping()) context.fail(fmt::format("the items of {}", of.type_name()));
    return context.walk(context.call(method_of_dict(context, of, "items"), {}));
  });
}

Value join(Context& context, const Value& of, const Arguments& arguments) {
  const Value* separator = argument(arguments, 0, "d");
  const Value* path = argument(arguments, 1, "attribute");
  const std::string between = separator && !separator->is_none() ? to_text(*separator) : "";
  std::string out;
  bool begun = false;
  for (const Value& item : context.items_of(of)) {
    if (begun) out += between;
    begun = true;
    const std::string text = to_text(dotted(context, item, path));
    context.charge(static_cast<int64_t>(text.size() + between.size()));
    out += text;
  }
  return Value(std::move(out));
}

// What map does to each item: another filter, or an attribute.
Change mapping(Context& context, const Arguments& arguments) {
  if (!arguments.positional.empty()) {
    Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
    return [&context, name = arguments.positional[0], rest = std::move(rest)](const Value& item) {
      return context.filter(need_text(context, name, "a filter"), item, rest);
    };
  }
  const Value* path = argument(arguments, 0, "attribute");
  if (!path) context.fail("map without a filter or an attribute");
  for (const auto& [name, value] : arguments.named) {
    if (name == "attribute" || name == "default") continue;
    context.unknown(fmt::format("the argument \"{}\" of map by an attribute", message_text(name)));
  }
  const Value* other = argument(arguments, 0, "default");
  return [&context, path = *path, other = other ? *other : Value::none()](const Value& item) {
    return dotted(context, item, &path, &other);
  };
}

// What has no truth gives nothing, be it no list, as in Jinja.
Value map(Context& context, const Value& of, const Arguments& arguments) {
  return lazily(context, of, arguments, [&context, of, arguments]() -> Walk {
    if (!of.truth()) return nothing;
    Change change = mapping(context, arguments);
    return changed(context.walk(of), std::move(change));
  });
}

// select, reject, selectattr, rejectattr.
template <bool wanted, bool by_attribute>
Value chosen(Context& context, const Value& of, const Arguments& arguments) {
  return lazily(context, of, arguments, [&context, of, given = arguments.positional]() -> Walk {
    if (!of.truth()) return nothing;
    const size_t skip = by_attribute ? 1 : 0;
    if (given.size() < skip) context.fail("an attribute is missing");
    const bool tested = given.size() > skip;
    const List rest(given.begin() + static_cast<ptrdiff_t>(std::min(given.size(), skip + 1)), given.end());
    return changed(context.walk(of), [=, &context](const Value& item) -> std::optional<Value> {
      const Value asked = by_attribute ? dotted(context, item, &given[0]) : item;
      const bool holds = tested ? context.test(need_text(context, given[skip], "a test"), asked, rest) : asked.truth();
      return holds == wanted ? std::optional(item) : std::nullopt;
    });
  });
}

Value reverse(Context& context, const Value& of, const Arguments&) {
  List all = context.items_of(of);
  std::reverse(all.begin(), all.end());
  if (of.is_generator()) return context.list(std::move(all));
  if (!of.text()) {
    const Value turned = context.list(std::move(all));
    return context.generator(context.walk(turned), {turned});
  }
  std::string out;
  for (const Value& item : all) out += *item.text();
  Value turned = context.text(std::move(out));
  turned.markup = of.markup;
  return turned;
}

Value sum(Context& context, const Value& of, const Arguments& arguments) {
  const Value* path = argument(arguments, 0, "attribute");
  const Value* start = argument(arguments, 1, "start");
  Value total = start ? *start : Value(int64_t{0});
  for (const Value& item : context.items_of(of)) {
    total = context.binary("+", total, dotted(context, item, path));
  }
  return total;
}

Value batch(Context& context, const Value& of, const Arguments& arguments) {
  const int64_t size = integer_argument(context, arguments, 0, "linecount", 0);
  if (size < 1 || size > 1 << 30) context.fail("batch of so many items");
  const Value* fill = argument(arguments, 1, "fill_with");
  const Value filling = fill ? *fill : Value::none();
  return lazily(context, of, arguments, [&context, of, size, filling]() -> Walk {
    return [&context, size, filling, items = context.walk(of), ahead = List()]() mutable -> std::optional<Value> {
      // A row is known to be full by the item after it.
      List row = std::exchange(ahead, {});
      while (std::optional<Value> item = items()) {
        if (static_cast<int64_t>(row.size()) == size) {
          ahead.push_back(std::move(*item));
          return context.list(std::move(row));
        }
        row.push_back(std::move(*item));
      }
      if (row.empty()) return std::nullopt;
      if (const int64_t lacking = size - static_cast<int64_t>(row.size()); !filling.is_none()) {
        context.charge(lacking * 32);
        row.resize(static_cast<size_t>(size), filling);
      }
      return context.list(std::move(row));
    };
  });
}

}  // namespace

Value lazily(Context& context, const Value& of, const Arguments& arguments, std::function<Walk()> begin) {
  List held = arguments.positional;
  held.push_back(of);
  for (const auto& [name, value] : arguments.named) held.push_back(value);
  const auto next = [begin = std::move(begin), items = Walk()]() mutable {
    if (!items) items = begin();
    return items();
  };
  return context.generator(next, held);
}

Value dotted(Context& context, const Value& item, const Value* path, const Value* fallback) {
  if (!path || path->is_none()) return item;
  const auto part_of = [&](const Value& whole, const Value& part) {
    Value found = context.subscript(whole, part);
    return found.is_undefined() && fallback && !fallback->is_none() ? *fallback : found;
  };
  if (path->integer()) return part_of(item, *path);
  Value at = item;
  for (const std::string_view part : split_at(need_text(context, *path, "attribute"), ".", -1, false)) {
    const bool number = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    at = part_of(at, number ? Value(static_cast<int64_t>(std::stoll(std::string(part)))) : Value(part));
  }
  return at;
}

const std::map<std::string, Filter>& list_filters() {
  static const std::map<std::string, Filter> known{
      {"length", length},
      {"count", length},
      {"first", first},
      {"last", last},
      {"list", list},
      {"items", items},
      {"join", join},
      {"map", map},
      {"select", chosen<true, false>},
      {"reject", chosen<false, false>},
      {"selectattr", chosen<true, true>},
      {"rejectattr", chosen<false, true>},
      {"reverse", reverse},
      {"sum", sum},
      {"batch", batch},
  };
  return known;
}

}  // namespace spillway::jinja
