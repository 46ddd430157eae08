#include <fmt/format.h>

#include <algorithm>

#include "loader/jinja/filters.h"
#include "loader/jinja/python_text.h"

namespace spillway::jinja {
namespace {

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
  if (const Sequence* generator = of.is_generator() ? of.sequence() : nullptr) {
    const bool empty = generator->done == generator->items.size();
    return empty ? Value::undefined("the first of nothing") : generator->items[generator->done++];
  }
  const List items = context.items_of(of);
  return items.empty() ? Value::undefined("the first of nothing") : items.front();
}

Value last(Context& context, const Value& of, const Arguments&) {
  if (of.is_generator()) context.fail("the last item of a generator");
  const List items = context.items_of(of);
  return items.empty() ? Value::undefined("the last of nothing") : items.back();
}

Value list(Context& context, const Value& of, const Arguments&) { return context.list(context.items_of(of)); }

Value items(Context& context, const Value& of, const Arguments&) {
  if (of.is_undefined()) return context.list({}, SequenceKind::generator);
  if (!of.mapping()) context.fail(fmt::format("the items of {}", of.type_name()));
  return context.list(context.items_of(context.call(method_of_dict(context, of, "items"), {})),
                      SequenceKind::generator);
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

// What map and the choosing filters go over: nothing that is no list gives nothing, as in Jinja.
List items_or_none(Context& context, const Value& of) { return of.truth() ? context.items_of(of) : List{}; }

Value map(Context& context, const Value& of, const Arguments& arguments) {
  List made;
  const Value* path = argument(arguments, arguments.positional.size(), "attribute");
  const Value* other = argument(arguments, arguments.positional.size(), "default");
  if (!path && arguments.positional.empty()) context.fail("map without a filter or an attribute");
  Arguments rest;
  if (!path) {
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
    rest.named = arguments.named;
  }
  for (const Value& item : items_or_none(context, of)) {
    if (path) {
      Value found = dotted(context, item, path);
      made.push_back(found.is_undefined() && other ? *other : std::move(found));
    } else {
      made.push_back(context.filter(need_text(context, arguments.positional[0], "a filter"), item, rest));
    }
  }
  return context.list(std::move(made), SequenceKind::generator);
}

// select, reject, selectattr, rejectattr.
template <bool wanted, bool by_attribute>
Value chosen(Context& context, const Value& of, const Arguments& arguments) {
  const List& given = arguments.positional;
  const size_t skip = by_attribute ? 1 : 0;
  if (given.size() < skip) context.fail("an attribute is missing");
  const bool tested = given.size() > skip;
  const List rest(given.begin() + static_cast<ptrdiff_t>(std::min(given.size(), skip + 1)), given.end());
  List made;
  for (const Value& item : items_or_none(context, of)) {
    const Value asked = by_attribute ? dotted(context, item, &given[0]) : item;
    const bool holds = tested ? context.test(need_text(context, given[skip], "a test"), asked, rest) : asked.truth();
    if (holds == wanted) made.push_back(item);
  }
  return context.list(std::move(made), SequenceKind::generator);
}

Value reverse(Context& context, const Value& of, const Arguments&) {
  List all = context.items_of(of);
  std::reverse(all.begin(), all.end());
  if (!of.text()) return context.list(std::move(all), of.is_generator() ? SequenceKind::list : SequenceKind::generator);
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
  List made, row;
  for (const Value& item : context.items_of(of)) {
    if (static_cast<int64_t>(row.size()) == size) made.push_back(context.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    const int64_t lacking = size - static_cast<int64_t>(row.size());
    if (fill && !fill->is_none()) {
      context.charge(lacking * 32);
      row.resize(static_cast<size_t>(size), *fill);
    }
    made.push_back(context.list(std::move(row)));
  }
  return context.list(std::move(made), SequenceKind::generator);
}

}  // namespace

Value dotted(Context& context, const Value& item, const Value* path) {
  if (!path || path->is_none()) return item;
  if (path->integer()) return context.subscript(item, *path);
  Value at = item;
  for (const std::string_view part : split_at(need_text(context, *path, "attribute"), ".", -1, false)) {
    const bool number = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    at = context.subscript(at, number ? Value(static_cast<int64_t>(std::stoll(std::string(part)))) : Value(part));
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
