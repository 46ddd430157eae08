// Context: what a rendering may still do, where it is, and the vocabulary of filters, tests and methods it is done
// with.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "loader/jinja/value.h"

namespace spillway::jinja {

class Context {
 public:
  // `name` begins messages. `steps`: of nodes evaluated, bytes and items made, all together.
  Context(std::string name, int64_t steps) : name_(std::move(name)), left_(steps) {}

  // Error(model) with the name and the present line.
  [[noreturn]] void fail(const std::string& what) const;
  // Something the template uses and we do not know; says the way out.
  [[noreturn]] void unknown(const std::string& what, const std::string& known = "") const;
  // Error(model) once the steps are used up.
  void charge(int64_t steps) {
    left_ -= steps;
    if (left_ < 0) out_of_steps();
  }
  // For a search of `what` in `text`, at its worst.
  void charge_search(std::string_view text, std::string_view what) {
    const auto size = static_cast<int64_t>(text.size());
    charge(size / 16 + size * static_cast<int64_t>(what.size()) / 256);
  }
  // Of a new value, which is charged for.
  Value text(std::string made);
  Value list(List items, SequenceKind kind = SequenceKind::list);
  Value dict(Dict items);
  // `held`: what `next` keeps alive, which is charged for.
  Value generator(Walk next, const List& held);
  // Error(model) with a step of zero, beyond 2^40, or of more than 100,000 numbers.
  Value range(const Range& range);

  Value filter(const std::string& filter, const Value& of, const Arguments& arguments);
  bool test(const std::string& test, const Value& of, const List& arguments);
  Value call(const Value& function, const Arguments& arguments);
  // of.name and of[index], as Jinja finds them.
  Value attribute(const Value& of, const std::string& name);
  Value subscript(const Value& of, const Value& index);
  // of[begin:end:step]; none where left out.
  Value slice(const Value& of, const Value& begin, const Value& end, const Value& step);
  // The items that a loop goes over: of a list, the keys of a dict, the characters of a text, nothing of what is
  // undefined, what is left of a generator.
  List items_of(const Value& of);
  // The same, one by one, each of a generator when it is asked for.
  Walk walk(const Value& of);
  // Nothing once there are no more. Error(model) where a generator needs an item of its own to make one (ValueError).
  std::optional<Value> next(const Value& generator);
  bool equals(const Value& a, const Value& b);
  // Python's `is`, as far as templates can tell.
  bool same(const Value& a, const Value& b);
  // Python's <, and its kin; unordered with a NaN. Error(model) where they have no order (TypeError).
  std::partial_ordering order(const Value& a, const Value& b);
  // Error(model) of what no dict can hold as a key.
  void need_key(const Value& key);
  const Value* find(const Mapping& mapping, const Value& key);
  bool contains(const Value& container, const Value& item);
  Value binary(const std::string& sign, const Value& left, const Value& right);

  int line = 0;

 private:
  [[noreturn]] void out_of_steps() const;

  std::string name_;
  int64_t left_;
  int asked_ = 0;  // generators that are making an item for each other
};

// The argument at `index`, or of this name; null where there is none.
const Value* argument(const Arguments& arguments, size_t index, std::string_view name);
int64_t integer_argument(const Context& context, const Arguments& arguments, size_t index, std::string_view name,
                         int64_t fallback);
std::string text_argument(const Context& context, const Arguments& arguments, size_t index, std::string_view name,
                          const std::string& fallback);

// The text itself; Error(model) where it is something else.
const std::string& need_text(const Context& context, const Value& value, std::string_view what);

// The characters of a text.
std::vector<std::string_view> characters(std::string_view text);

// A method of a text, list or dict, bound to it; undefined where there is none of this name.
Value method_of_text(Context& context, const Value& of, const std::string& name);
Value method_of_list(Context& context, const Value& of, const std::string& name);
Value method_of_dict(Context& context, const Value& of, const std::string& name);

// With entities in place of the characters that mean something in HTML, as markupsafe has them.
std::string escaped(Context& context, std::string_view text);

// JSON as json.dumps of Python writes it. `indent` < 0: on one line.
struct JsonStyle {
  int64_t indent = -1;
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
  bool ascii = false;
};
std::string to_json(Context& context, const Value& value, const JsonStyle& style);

}  // namespace spillway::jinja
