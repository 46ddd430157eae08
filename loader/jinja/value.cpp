#include "loader/jinja/value.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway::jinja {
namespace {

constexpr int kDeepest = 64;

// The sum, which stays far from overflow.
int64_t heavier(int64_t a, int64_t b) { return std::min<int64_t>(a + b + 2, int64_t{1} << 60); }

int checked(int depth) {
  if (depth > kDeepest) throw Error(ErrorKind::model, "the chat template nests lists too deep");
  return depth;
}

template <typename T>
const T* shared_in(const Value::Data& data) {
  const auto* held = std::get_if<std::shared_ptr<const T>>(&data);
  return held ? held->get() : nullptr;
}

}  // namespace

const Sequence* Value::sequence() const { return shared_in<Sequence>(data); }
const Mapping* Value::mapping() const { return shared_in<Mapping>(data); }
const Function* Value::function() const { return shared_in<Function>(data); }
Namespace* Value::space() const {
  auto* const* held = std::get_if<Namespace*>(&data);
  return held ? *held : nullptr;
}

Value Value::list(List items, SequenceKind kind) {
  int depth = 0;
  int64_t weight = 2;
  for (const Value& item : items) {
    depth = std::max(depth, depth_of(item));
    weight = heavier(weight, weight_of(item));
  }
  return Value(Data(std::make_shared<const Sequence>(Sequence{std::move(items), checked(depth + 1), weight, kind})));
}

Value Value::dict(Dict items) {
  int depth = 0;
  int64_t weight = 2;
  for (const auto& [key, item] : items) {
    depth = std::max({depth, depth_of(key), depth_of(item)});
    weight = heavier(weight, heavier(weight_of(key), weight_of(item)));
  }
  return Value(Data(std::make_shared<const Mapping>(Mapping{std::move(items), checked(depth + 1), weight})));
}

int depth_of(const Value& value) {
  if (const Sequence* list = value.sequence()) return list->depth;
  if (const Mapping* dict = value.mapping()) return dict->depth;
  if (const Function* function = value.function()) return function->depth;
  return 0;
}

int64_t weight_of(const Value& value) {
  if (const std::string* text = value.text()) return static_cast<int64_t>(text->size()) + 8;
  if (const Sequence* list = value.sequence()) return list->weight;
  if (const Mapping* dict = value.mapping()) return dict->weight;
  return 8;
}

double Value::as_double() const {
  if (const double* number = real()) return *number;
  return static_cast<double>(as_integer());
}

int64_t Value::as_integer() const {
  if (const bool* flag = boolean()) return *flag;
  const int64_t* number = integer();
  SPILLWAY_CHECK(number != nullptr);
  return *number;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return as_double() != 0;
  if (const std::string* string = text()) return !string->empty();
  if (const Sequence* list = sequence()) return list->kind == SequenceKind::generator || !list->items.empty();
  if (const Mapping* dict = mapping()) return !dict->items.empty();
  return true;
}

const char* Value::type_name() const {
  if (is_generator()) return "a generator";
  static constexpr const char* kNames[] = {"undefined", "none",   "a boolean", "an integer",  "a number",
                                           "a text",    "a list", "a dict",    "a namespace", "a function"};
  return kNames[data.index()];
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.real() || b.real()) return a.as_double() == b.as_double();
    return a.as_integer() == b.as_integer();
  }
  if (a.data.index() != b.data.index()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (a.text()) return *a.text() == *b.text();
  if (const Sequence* left = a.sequence()) {
    const List& right = b.sequence()->items;
    return left->items.size() == right.size() &&
           std::equal(left->items.begin(), left->items.end(), right.begin(), equal);
  }
  if (const Mapping* left = a.mapping()) {
    const Mapping& right = *b.mapping();
    return left->items.size() == right.items.size() &&
           std::all_of(left->items.begin(), left->items.end(), [&](auto& item) {
             const Value* other = find(right, item.first);
             return other && equal(item.second, *other);
           });
  }
  if (a.function()) return a.function() == b.function();
  return a.space() == b.space();
}

bool less(const Value& a, const Value& b, bool& comparable) {
  comparable = true;
  if (a.is_number() && b.is_number()) {
    return a.real() || b.real() ? a.as_double() < b.as_double() : a.as_integer() < b.as_integer();
  }
  if (a.text() && b.text()) return *a.text() < *b.text();
  if (a.sequence() && b.sequence()) {
    const List &left = a.sequence()->items, &right = b.sequence()->items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i], comparable);
    }
    return left.size() < right.size();
  }
  comparable = false;
  return false;
}

const Value* find(const Mapping& mapping, const Value& key) {
  for (const auto& [name, value] : mapping.items) {
    if (equal(name, key)) return &value;
  }
  return nullptr;
}

}  // namespace spillway::jinja
