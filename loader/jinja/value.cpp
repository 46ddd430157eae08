#include "loader/jinja/value.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway::jinja {
namespace {

constexpr int kDeepest = 64;
constexpr int kLongestChain = 256;  // of generators that go over each other
constexpr int64_t kPrinted = 16;    // bytes, of what has no items to print

// The sum, which stays far from overflow.
int64_t heavier(int64_t a, int64_t b) { return std::min<int64_t>(a + b + 2, int64_t{1} << 60); }

int checked(int depth, int most = kDeepest) {
  if (depth > most) throw Error(ErrorKind::model, "the chat template nests lists too deep");
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
  return Value(Data(
      std::make_shared<const Sequence>(Sequence{std::move(items), checked(depth + 1), weight, kind, {}, nullptr})));
}

Value Value::generator(Walk next, int held) {
  auto generator = std::make_shared<Generator>(Generator{std::move(next)});
  return Value(Data(std::make_shared<const Sequence>(
      Sequence{{}, checked(held + 1, kLongestChain), kPrinted, SequenceKind::generator, {}, std::move(generator)})));
}

Value Value::object(std::function<Value(const std::string&)> tell) {
  const auto call = [tell = std::move(tell)](const Arguments& name) { return tell(*name.positional.at(0).text()); };
  return Value(Data(std::make_shared<const Mapping>(
      Mapping{{}, 1, kPrinted, std::make_shared<const Function>(Function{"attribute", call})})));
}

int64_t Range::count() const {
  SPILLWAY_CHECK(step != 0 && step != INT64_MIN);
  const int64_t from = step > 0 ? start : stop, to = step > 0 ? stop : start;
  return from < to ? (to - from - 1) / (step > 0 ? step : -step) + 1 : 0;
}

Value Value::range(const Range& range) {
  List items;
  for (int64_t i = 0; i < range.count(); ++i) items.emplace_back(range.start + i * range.step);
  const auto weight = 10 * static_cast<int64_t>(items.size()) + 2;
  return Value(Data(
      std::make_shared<const Sequence>(Sequence{std::move(items), 1, weight, SequenceKind::range, range, nullptr})));
}

Value Value::dict(Dict items) {
  int depth = 0;
  int64_t weight = 2;
  for (const auto& [key, item] : items) {
    depth = std::max({depth, depth_of(key), depth_of(item)});
    weight = heavier(weight, heavier(weight_of(key), weight_of(item)));
  }
  return Value(Data(std::make_shared<const Mapping>(Mapping{std::move(items), checked(depth + 1), weight, nullptr})));
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
  if (const Mapping* dict = mapping()) return dict->teller || !dict->items.empty();
  return true;
}

const char* Value::type_name() const {
  static constexpr const char* kSequences[] = {
      "a list",     "a tuple", "a range", "the items of a dict", "the keys of a dict", "the values of a dict",
      "a generator"};
  if (const Sequence* list = sequence()) return kSequences[static_cast<size_t>(list->kind)];
  static constexpr const char* kNames[] = {"undefined", "none",   "a boolean", "an integer",  "a number",
                                           "a text",    "a list", "a dict",    "a namespace", "a function"};
  return kNames[data.index()];
}

}  // namespace spillway::jinja
