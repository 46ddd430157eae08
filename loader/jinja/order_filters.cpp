// The filters that put items in order, or choose among them by it.
#include <fmt/format.h>

#include <algorithm>

#include "loader/jinja/filters.h"
#include "loader/jinja/letter_case.h"
#include "loader/jinja/python_text.h"

namespace spillway::jinja {
namespace {

struct Keyed {
  Value key, item;
};

bool flag(const Arguments& arguments, size_t index, std::string_view name) {
  const Value* value = argument(arguments, index, name);
  return value && value->truth();
}

// What an item is compared by: texts without regard to case unless asked.
Value key_of(Context& context, const Value& item, const Value* path, bool by_case) {
  Value key = dotted(context, item, path);
  if (by_case || !key.text()) return key;
  context.charge(16 * static_cast<int64_t>(key.text()->size()));
  return context.text(lower(*key.text()));
}

// Items of equal keys keep their order, in either direction.
List in_order(Context& context, std::vector<Keyed> keyed, bool descending) {
  context.charge(static_cast<int64_t>(keyed.size()) * 24);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    context.charge(1);
    return descending ? context.order(b.key, a.key) < 0 : context.order(a.key, b.key) < 0;
  });
  List all;
  for (Keyed& one : keyed) all.push_back(std::move(one.item));
  return all;
}

// The key is a list of one for each attribute of "a,b.c", of one without an attribute: so None is no trouble beside
// None.
Value sort(Context& context, const Value& of, const Arguments& arguments) {
  const bool by_case = flag(arguments, 1, "case_sensitive");
  const Value* attribute = argument(arguments, 2, "attribute");
  List paths;
  if (attribute && attribute->text()) {
    for (const std::string_view part : split_at(*attribute->text(), ",", -1, false)) paths.emplace_back(part);
  } else {
    paths.push_back(attribute ? *attribute : Value::none());
  }
  std::vector<Keyed> keyed;
  for (Value& item : context.items_of(of)) {
    List keys;
    for (const Value& path : paths) keys.push_back(key_of(context, item, &path, by_case));
    keyed.push_back({context.list(std::move(keys)), std::move(item)});
  }
  return context.list(in_order(context, std::move(keyed), flag(arguments, 0, "reverse")));
}

Value dictsort(Context& context, const Value& of, const Arguments& arguments) {
  if (!of.mapping()) context.fail(fmt::format("dictsort of {}", of.type_name()));
  const std::string by = text_argument(context, arguments, 1, "by", "key");
  if (by != "key" && by != "value") context.fail("dictsort by what is neither \"key\" nor \"value\"");
  const bool by_case = flag(arguments, 0, "case_sensitive");
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : of.mapping()->items) {
    keyed.push_back({key_of(context, by == "key" ? key : value, nullptr, by_case),
                     context.list({key, value}, SequenceKind::tuple)});
  }
  return context.list(in_order(context, std::move(keyed), flag(arguments, 2, "reverse")));
}

Value unique(Context& context, const Value& of, const Arguments& arguments) {
  const bool by_case = flag(arguments, 0, "case_sensitive");
  const Value* path = argument(arguments, 1, "attribute");
  return lazily(context, of, arguments, [&context, of, by_case, path = path ? *path : Value::none()]() -> Walk {
    return [&context, by_case, path, items = context.walk(of), seen = List()]() mutable -> std::optional<Value> {
      while (std::optional<Value> item = items()) {
        Value key = key_of(context, *item, &path, by_case);
        context.need_key(key);
        const auto is_key = [&](const Value& one) { return context.charge(1), context.equals(one, key); };
        if (std::any_of(seen.begin(), seen.end(), is_key)) continue;
        context.charge(16 + (key.text() ? weight_of(key) : 0));
        seen.push_back(std::move(key));
        return item;
      }
      return std::nullopt;
    };
  });
}

// The first of those that nothing goes beyond.
template <bool largest>
Value extreme(Context& context, const Value& of, const Arguments& arguments) {
  const bool by_case = flag(arguments, 0, "case_sensitive");
  const Value* path = argument(arguments, 1, "attribute");
  const List all = context.items_of(of);
  if (all.empty()) return Value::undefined("the extreme of nothing");
  size_t found = 0;
  Value best = key_of(context, all[0], path, by_case);
  for (size_t i = 1; i < all.size(); ++i) {
    Value key = key_of(context, all[i], path, by_case);
    if (!(largest ? context.order(key, best) > 0 : context.order(key, best) < 0)) continue;
    best = std::move(key);
    found = i;
  }
  return all[found];
}

}  // namespace

const std::map<std::string, Filter>& order_filters() {
  static const std::map<std::string, Filter> known{
      {"sort", sort}, {"dictsort", dictsort}, {"unique", unique}, {"max", extreme<true>}, {"min", extreme<false>},
  };
  return known;
}

}  // namespace spillway::jinja
