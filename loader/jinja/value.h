// Values of the template language: Python's, as far as templates see them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace spillway::jinja {

struct Value;
struct Namespace;
struct Function;
struct Generator;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<Value, Value>>;  // in the order of writing; small

struct Undefined {
  std::string name;  // for messages
};
struct None {};
// A list, a tuple and a range have an order and places; what .items(), .keys() and .values() of a dict give has a
// length and no places; what map, select and their like give is a generator: it can be gone over once, makes an item
// when that is asked for, and has no length or JSON.
enum class SequenceKind : uint8_t { list, tuple, range, items, keys, values, generator };
struct Range {
  int64_t start, stop, step;
  int64_t count() const;
};
struct Sequence {
  List items;
  int depth;       // of lists and dicts in each other
  int64_t weight;  // bytes to print it, nearly: shared parts count each time
  SequenceKind kind = SequenceKind::list;
  Range range{};                         // of a range
  std::shared_ptr<Generator> generator;  // of a generator, in place of items
};
struct Mapping {
  Dict items;
  int depth;
  int64_t weight;
  std::shared_ptr<const Function> teller;  // of an object, in place of items: tells an attribute by its name
};

// Lists and dicts never change once they are made (a generator is used up, a loop goes on), so that values are shared
// freely and hold no cycle.
struct Value {
  using Data = std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<const Sequence>,
                            std::shared_ptr<const Mapping>, Namespace*, std::shared_ptr<const Function>>;
  Data data = Undefined{};
  // A text that `safe` or `escape` has marked: another text that + adds to it is escaped for HTML (markupsafe).
  bool markup = false;

  Value() = default;
  Value(bool flag) : data(flag) {}
  Value(int64_t number) : data(number) {}
  Value(double number) : data(number) {}
  Value(std::string text) : data(std::move(text)) {}
  Value(std::string_view text) : data(std::string(text)) {}
  Value(const char* text) : data(std::string(text)) {}
  Value(Namespace* space) : data(space) {}
  Value(std::shared_ptr<const Function> function) : data(std::move(function)) {}
  static Value none() { return Value(Data(None{})); }
  static Value undefined(std::string name) { return Value(Data(Undefined{std::move(name)})); }
  // Error(model) when they are nested too deep.
  static Value list(List items, SequenceKind kind = SequenceKind::list);
  static Value dict(Dict items);
  // `held`: how deep what `next` keeps alive is nested.
  static Value generator(std::function<std::optional<Value>()> next, int held);
  // What has attributes alone, told one by one; an undefined value where there is none.
  static Value object(std::function<Value(const std::string& name)> tell);
  static Value range(const Range& range);  // of few numbers: they are made

  bool is_undefined() const { return std::holds_alternative<Undefined>(data); }
  bool is_none() const { return std::holds_alternative<None>(data); }
  const bool* boolean() const { return std::get_if<bool>(&data); }
  const double* real() const { return std::get_if<double>(&data); }
  const std::string* text() const { return std::get_if<std::string>(&data); }
  const Sequence* sequence() const;
  bool is(SequenceKind kind) const { return sequence() && sequence()->kind == kind; }
  bool is_generator() const { return is(SequenceKind::generator); }
  // A list, tuple or range.
  bool has_places() const { return sequence() && sequence()->kind <= SequenceKind::range; }
  const Mapping* mapping() const;
  Namespace* space() const;
  const Function* function() const;
  // An integer, or a boolean as one.
  const int64_t* integer() const { return std::get_if<int64_t>(&data); }
  bool is_number() const { return integer() || real() || boolean(); }
  double as_double() const;    // of a number
  int64_t as_integer() const;  // of an integer or a boolean
  bool truth() const;
  const char* type_name() const;

 private:
  explicit Value(Data made) : data(std::move(made)) {}
};

// Gives the next item; nothing after the last.
using Walk = std::function<std::optional<Value>()>;

struct Generator {
  Walk next;             // empty after the last item
  bool running = false;  // an item is being made
};

// The only thing that changes: {% set space.name = ... %}. Owned by the interpreter.
struct Namespace {
  std::vector<std::pair<std::string, Value>> items;
};

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Function {
  std::string name;
  std::function<Value(const Arguments&)> call;
  int depth = 0;  // of what a method is bound to
};

int depth_of(const Value& value);
int64_t weight_of(const Value& value);

// As Python prints a value: str() and repr().
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
std::string number_text(double number);

}  // namespace spillway::jinja
