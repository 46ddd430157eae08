// How values compare: Python's ==, < and what dicts ask of their keys.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loader/jinja/context.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {
namespace {

// Exact, where a double cannot hold the integer.
std::partial_ordering order_of(int64_t whole, double real) {
  if (std::isnan(real)) return std::partial_ordering::unordered;
  if (real >= 0x1p63) return std::partial_ordering::less;
  if (real < -0x1p63) return std::partial_ordering::greater;
  const double floor = std::floor(real);
  const auto below = static_cast<int64_t>(floor);
  if (whole != below) return whole <=> below;
  return floor < real ? std::partial_ordering::less : std::partial_ordering::equivalent;
}

std::partial_ordering order_of_numbers(const Value& a, const Value& b) {
  if (a.real() && b.real()) return *a.real() <=> *b.real();
  if (b.real()) return order_of(a.as_integer(), *b.real());
  if (a.real()) return 0 <=> order_of(b.as_integer(), *a.real());
  return a.as_integer() <=> b.as_integer();
}

// The same object; texts and numbers count as such where their values are the same.
bool identical(const Value& a, const Value& b) {
  if (a.data.index() != b.data.index()) return false;
  if (a.text()) return *a.text() == *b.text();
  if (a.is_number()) return order_of_numbers(a, b) == 0;
  if (a.space()) return a.space() == b.space();
  if (a.sequence()) return a.sequence() == b.sequence();
  if (a.mapping()) return a.mapping() == b.mapping();
  if (a.function()) return a.function() == b.function();
  return true;
}

// Lists equal lists, tuples tuples and ranges ranges. Of the rest each equals itself alone; so do views of a dict here,
// which Python compares as sets.
bool may_equal(const Sequence& a, const Sequence& b) {
  return a.kind == b.kind && a.kind <= SequenceKind::range && a.items.size() == b.items.size();
}

}  // namespace

bool Context::same(const Value& a, const Value& b) {
  if (a.text() && b.text()) charge(static_cast<int64_t>(a.text()->size()) / 16);
  return identical(a, b);
}

bool Context::equals(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_of_numbers(a, b) == 0;
  if (same(a, b)) return true;
  if (a.sequence() && b.sequence()) {
    if (!may_equal(*a.sequence(), *b.sequence())) return false;
    charge(static_cast<int64_t>(a.sequence()->items.size()));
    return std::equal(a.sequence()->items.begin(), a.sequence()->items.end(), b.sequence()->items.begin(),
                      [this](const Value& one, const Value& other) { return equals(one, other); });
  }
  if (a.mapping() && b.mapping()) {
    if (a.mapping()->items.size() != b.mapping()->items.size()) return false;
    return std::all_of(a.mapping()->items.begin(), a.mapping()->items.end(), [&](const auto& item) {
      const Value* other = find(*b.mapping(), item.first);
      return other && equals(item.second, *other);
    });
  }
  return false;
}

std::partial_ordering Context::order(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_of_numbers(a, b);
  if (a.text() && b.text()) {
    charge(static_cast<int64_t>(std::min(a.text()->size(), b.text()->size())) / 16);
    return *a.text() <=> *b.text();
  }
  const bool alike = a.sequence() && b.sequence() && a.sequence()->kind == b.sequence()->kind;
  if (alike && (a.is(SequenceKind::list) || a.is(SequenceKind::tuple))) {
    const List &left = a.sequence()->items, &right = b.sequence()->items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      charge(1);
      if (!equals(left[i], right[i])) return order(left[i], right[i]);
    }
    return left.size() <=> right.size();
  }
  for (const Value* side : {&a, &b}) {
    if (const auto* missing = std::get_if<Undefined>(&side->data)) {
      fail(fmt::format("\"{}\" is undefined", message_text(missing->name)));
    }
  }
  fail(fmt::format("{} and {} have no order", a.type_name(), b.type_name()));
}

void Context::need_key(const Value& key) {
  const bool changes =
      key.mapping() || key.is(SequenceKind::list) || key.is(SequenceKind::items) || key.is(SequenceKind::keys);
  if (changes) fail(fmt::format("{} as the key of a dict", key.type_name()));
  if (!key.is(SequenceKind::tuple)) return;
  charge(static_cast<int64_t>(key.sequence()->items.size()));
  for (const Value& part : key.sequence()->items) need_key(part);
}

const Value* Context::find(const Mapping& mapping, const Value& key) {
  charge(static_cast<int64_t>(mapping.items.size()));
  for (const auto& [name, value] : mapping.items) {
    if (equals(name, key)) return &value;
  }
  return nullptr;
}

}  // namespace spillway::jinja
