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
  if (of.is_undefined()) return context.list({});
  if (!of.mapping()) context.fail(fmt::format("the items of {}", of.type_name()));
  return context.call(method_of_dict(context, of, "items"), {});
}

// item.a.b, or item.0, as the argument `attribute` of filters has it.
Value dotted(Context& context, const Value& item, const Value& path) {
  if (path.integer()) return context.subscript(item, path);
  Value at = item;
  for (const std::string_view part : split_at(need_text(context, path, "attribute"), ".", -1, false)) {
    const bool number = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    at = context.subscript(at, number ? Value(static_cast<int64_t>(std::stoll(std::string(part)))) : Value(part));
  }
  return at;
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
    const std::string text = to_text(path && !path->is_none() ? dotted(context, item, *path) : item);
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
      Value found = dotted(context, item, *path);
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
    const Value asked = by_attribute ? dotted(context, item, given[0]) : item;
    const bool holds = tested ? context.test(need_text(context, given[skip], "a test"), asked, rest) : asked.truth();
    if (holds == wanted) made.push_back(item);
  }
  return context.list(std::move(made), SequenceKind::generator);
}

Value reverse(Context& context, const Value& of, const Arguments&) {
  List all = context.items_of(of);
  std::reverse(all.begin(), all.end());
  if (!of.text()) return context.list(std::move(all), SequenceKind::generator);
  std::string out;
  for (const Value& item : all) out += *item.text();
  return context.text(std::move(out));
}

// By key(item), texts without regard to case unless asked.
void sort_by(Context& context, List& all, bool descending, bool by_case, const Value* path) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : all) {
    Value key = path && !path->is_none() ? dotted(context, item, *path) : item;
    if (!by_case && key.text()) key = context.text(lower(*key.text()));
    keyed.emplace_back(std::move(key), std::move(item));
  }
  context.charge(static_cast<int64_t>(keyed.size()) * 24);
  for (size_t i = 1; i < keyed.size(); ++i) {  // all of one kind, before a sort relies on it
    bool comparable = false;
    less(keyed[0].first, keyed[i].first, comparable);
    if (!comparable || keyed[0].first.sequence()) context.fail("items without an order cannot be sorted");
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    bool comparable = false;
    return descending ? less(b.first, a.first, comparable) : less(a.first, b.first, comparable);
  });
  for (size_t i = 0; i < all.size(); ++i) all[i] = std::move(keyed[i].second);
}

bool flag(const Arguments& arguments, size_t index, std::string_view name) {
  const Value* value = argument(arguments, index, name);
  return value && value->truth();
}

Value sort(Context& context, const Value& of, const Arguments& arguments) {
  List all = context.items_of(of);
  sort_by(context, all, flag(arguments, 0, "reverse"), flag(arguments, 1, "case_sensitive"),
          argument(arguments, 2, "attribute"));
  return context.list(std::move(all));
}

Value dictsort(Context& context, const Value& of, const Arguments& arguments) {
  const Value pairs = items(context, of, {});
  List all = pairs.sequence()->items;
  const Value path(int64_t{text_argument(context, arguments, 1, "by", "key") == "value" ? 1 : 0});
  sort_by(context, all, flag(arguments, 2, "reverse"), flag(arguments, 0, "case_sensitive"), &path);
  return context.list(std::move(all));
}

Value unique(Context& context, const Value& of, const Arguments& arguments) {
  const bool by_case = flag(arguments, 0, "case_sensitive");
  List made, seen;
  for (const Value& item : context.items_of(of)) {
    const Value key = !by_case && item.text() ? Value(lower(*item.text())) : item;
    if (std::any_of(seen.begin(), seen.end(),
                    [&](const Value& one) { return context.charge(1), context.equals(one, key); }))
      continue;
    seen.push_back(key);
    made.push_back(item);
  }
  return context.list(std::move(made), SequenceKind::generator);
}

template <bool largest>
Value extreme(Context& context, const Value& of, const Arguments& arguments) {
  List all = context.items_of(of);
  if (all.empty()) return Value::undefined("the extreme of nothing");
  sort_by(context, all, largest, flag(arguments, 0, "case_sensitive"), argument(arguments, 1, "attribute"));
  return all.front();
}

Value sum(Context& context, const Value& of, const Arguments& arguments) {
  const Value* path = argument(arguments, 0, "attribute");
  const Value* start = argument(arguments, 1, "start");
  Value total = start ? *start : Value(int64_t{0});
  for (const Value& item : context.items_of(of)) {
    total = context.binary("+", total, path && !path->is_none() ? dotted(context, item, *path) : item);
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
      {"sort", sort},
      {"dictsort", dictsort},
      {"unique", unique},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"sum", sum},
      {"batch", batch},
  };
  return known;
}

}  // namespace spillway::jinja
