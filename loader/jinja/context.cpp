#include "loader/jinja/context.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "kernels/check.h"
#include "loader/text/message_text.h"
#include "loader/text/utf8.h"

namespace spillway::jinja {

void Context::fail(const std::string& what) const {
  throw Error(ErrorKind::model, fmt::format("{}, line {}: {}", name_, line, what));
}

void Context::unknown(const std::string& what, const std::string& known) const {
  fail(fmt::format("{} is not known here{}{}; --template FILE or NAME takes another", what,
                   known.empty() ? "" : "; known: ", known));
}

void Context::out_of_steps() const { fail("takes more steps or memory than a chat template may"); }

Value Context::text(std::string made) {
  charge(static_cast<int64_t>(made.size()));
  return Value(std::move(made));
}

Value Context::list(List items, SequenceKind kind) {
  Value made = Value::list(std::move(items), kind);
  charge(weight_of(made) + 16 * static_cast<int64_t>(made.sequence()->items.size()));
  return made;
}

Value Context::dict(Dict items) {
  Value made = Value::dict(std::move(items));
  charge(weight_of(made) + 32 * static_cast<int64_t>(made.mapping()->items.size()));
  return made;
}

Value Context::generator(Walk next, const List& held) {
  constexpr int64_t kItself = 256;  // bytes
  int depth = 0;
  charge(kItself);
  for (const Value& value : held) {
    depth = std::max(depth, depth_of(value));
    if (value.text()) charge(2 * weight_of(value));
  }
  return Value::generator(std::move(next), depth);
}

Value Context::range(const Range& range) {
  constexpr int64_t kLongest = 100'000;  // as Jinja's sandbox has it
  constexpr int64_t kFar = int64_t{1} << 40;
  if (range.step == 0) fail("range with a step of zero");
  for (const int64_t number : {range.start, range.stop, range.step}) {
    if (number < -kFar || number > kFar) fail("range goes too far");
  }
  if (range.count() > kLongest) fail(fmt::format("a range of more than {} numbers", kLongest));
  charge(32 * range.count());
  return Value::range(range);
}

Value Context::call(const Value& function, const Arguments& arguments) {
  if (const Function* known = function.function()) return known->call(arguments);
  if (const auto* missing = std::get_if<Undefined>(&function.data)) {
    unknown(fmt::format("the function or method \"{}\"", message_text(missing->name)));
  }
  fail(fmt::format("calls {}, which is no function", function.type_name()));
}

Value Context::attribute(const Value& of, const std::string& name) {
  if (const auto* missing = std::get_if<Undefined>(&of.data)) {
    fail(fmt::format("\"{}\" is undefined, and .{} of it is asked", message_text(missing->name), message_text(name)));
  }
  Value method;
  if (of.text()) method = method_of_text(*this, of, name);
  if (of.sequence()) method = method_of_list(*this, of, name);
  if (const Mapping* mapping = of.mapping()) {
    method = method_of_dict(*this, of, name);
    const Value* item = method.is_undefined() ? find(*mapping, Value(name)) : nullptr;
    if (item) return *item;
    if (mapping->teller) return call(Value(mapping->teller), {.positional = {Value(name)}, .named = {}});
  }
  if (const Namespace* space = of.space()) {
    charge(static_cast<int64_t>(space->items.size()) / 8);
    for (const auto& [key, item] : space->items) {
      if (key == name) return item;
    }
  }
  static const std::set<std::string_view> kOfMacros{"name", "arguments", "catch_kwargs", "catch_varargs", "caller"};
  static const std::set<std::string_view> kOfNumbers{"real",       "imag",       "numerator",       "denominator",
                                                     "conjugate",  "bit_length", "bit_count",       "to_bytes",
                                                     "from_bytes", "is_integer", "as_integer_ratio"};
  if ((of.function() && kOfMacros.contains(name)) || (of.is_number() && kOfNumbers.contains(name))) {
    unknown(fmt::format("\"{}\" of {}", message_text(name), of.type_name()));
  }
  return method.is_undefined() ? Value::undefined(name) : method;
}

Value Context::subscript(const Value& of, const Value& index) {
  if (const auto* missing = std::get_if<Undefined>(&of.data)) {
    fail(fmt::format("\"{}\" is undefined, and an item of it is asked", message_text(missing->name)));
  }
  if (const Mapping* mapping = of.mapping()) {
    if (const Value* item = find(*mapping, index)) return *item;
  }
  if (of.sequence() && !of.has_places()) return Value::undefined(to_text(index));
  const bool whole = index.integer() || index.boolean();
  if (whole && (of.sequence() || of.text())) {
    const List items = of.sequence() ? List() : items_of(of);
    const List& all = of.sequence() ? of.sequence()->items : items;
    const auto size = static_cast<int64_t>(all.size());
    const int64_t at = index.as_integer() < 0 ? index.as_integer() + size : index.as_integer();
    return at >= 0 && at < size ? all[static_cast<size_t>(at)] : Value::undefined(to_text(index));
  }
  if (index.text()) return attribute(of, *index.text());
  return Value::undefined(to_text(index));
}

Value Context::slice(const Value& of, const Value& begin, const Value& end, const Value& step) {
  if (const auto* missing = std::get_if<Undefined>(&of.data)) {
    fail(fmt::format("\"{}\" is undefined, and a slice of it is asked", message_text(missing->name)));
  }
  if (!of.has_places() && !of.text()) fail(fmt::format("a slice of {}", of.type_name()));
  const auto whole = [&](const Value& value, int64_t fallback) {
    if (value.is_none()) return fallback;
    if (!value.integer() && !value.boolean()) fail("a slice with bounds that are no integers");
    return value.as_integer();
  };
  const int64_t by = whole(step, 1);
  if (by == 0) fail("a slice with a step of zero");
  const List items = items_of(of);
  const auto size = static_cast<int64_t>(items.size());
  const auto bound = [&](const Value& value, int64_t fallback) {
    int64_t at = whole(value, fallback);
    if (at < 0 && !value.is_none()) at += size;
    return std::clamp<int64_t>(at, by < 0 ? -1 : 0, by < 0 ? size - 1 : size);
  };
  const int64_t first = bound(begin, by < 0 ? size - 1 : 0), last = bound(end, by < 0 ? -1 : size);
  if (of.is(SequenceKind::range)) {
    const Range& all = of.sequence()->range;
    int64_t stride = 0;
    if (__builtin_mul_overflow(all.step, by, &stride)) fail("an integer beyond 64 bits");
    return range({all.start + first * all.step, all.start + last * all.step, stride});
  }
  List taken;
  const int64_t stride = std::clamp<int64_t>(by, -size - 1, size + 1);
  for (int64_t at = first; by > 0 ? at < last : at > last; at += stride)
    taken.push_back(items[static_cast<size_t>(at)]);
  if (of.sequence()) return list(std::move(taken), of.sequence()->kind);
  std::string joined;
  for (const Value& item : taken) joined += *item.text();
  Value part = text(std::move(joined));
  part.markup = of.markup;
  return part;
}

List Context::items_of(const Value& of) {
  List items;
  if (const Sequence* sequence = of.sequence()) {
    charge(static_cast<int64_t>(sequence->items.size()));
    if (!of.is_generator()) return sequence->items;
    while (std::optional<Value> item = next(of)) items.push_back(std::move(*item));
    return items;
  }
  if (const Mapping* mapping = of.mapping()) {
    charge(static_cast<int64_t>(mapping->items.size()));
    for (const auto& [key, value] : mapping->items) items.push_back(key);
  } else if (const std::string* string = of.text()) {
    charge(static_cast<int64_t>(string->size()) * 32);
    for (const std::string_view character : characters(*string)) items.emplace_back(character);
  } else if (!of.is_undefined()) {
    fail(fmt::format("{} holds nothing that a loop could go over", of.type_name()));
  }
  return items;
}

Walk Context::walk(const Value& of) {
  if (of.is_generator()) return [this, of] { return next(of); };
  // A list is shared, and of the rest items are made.
  const bool shared = of.sequence() != nullptr;
  const Value items = shared ? of : list(items_of(of));
  return [items, at = size_t{0}]() mutable -> std::optional<Value> {
    const List& all = items.sequence()->items;
    return at < all.size() ? std::optional(all[at++]) : std::nullopt;
  };
}

std::optional<Value> Context::next(const Value& of) {
  constexpr int kMostAsked = 256;  // for the stack's sake
  Generator& generator = *of.sequence()->generator;
  if (!generator.next) return std::nullopt;
  if (generator.running) fail("a generator that needs its own next item");
  if (asked_ == kMostAsked) fail("generators that need each other's items too deep");
  charge(4);
  ++asked_;
  generator.running = true;
  std::optional<Value> item = generator.next();
  generator.running = false;
  --asked_;
  if (!item) generator.next = nullptr;  // with what it kept alive
  return item;
}

bool Context::contains(const Value& container, const Value& item) {
  if (const std::string* string = container.text()) {
    const std::string& what = need_text(*this, item, "what is looked for in a text");
    charge_search(*string, what);
    return string->find(what) != std::string::npos;
  }
  if (const Mapping* mapping = container.mapping()) {
    need_key(item);
    return find(*mapping, item) != nullptr;
  }
  if (container.is(SequenceKind::keys)) need_key(item);
  const Walk items = walk(container);
  while (const std::optional<Value> one = items()) {
    charge(1);
    if (equals(*one, item)) return true;
  }
  return false;
}

const Value* argument(const Arguments& arguments, size_t index, std::string_view name) {
  if (index < arguments.positional.size()) return &arguments.positional[index];
  for (const auto& [key, value] : arguments.named) {
    if (key == name) return &value;
  }
  return nullptr;
}

int64_t integer_argument(const Context& context, const Arguments& arguments, size_t index, std::string_view name,
                         int64_t fallback) {
  const Value* value = argument(arguments, index, name);
  if (!value || value->is_none()) return fallback;
  if (!value->integer() && !value->boolean()) context.fail(fmt::format("\"{}\" is no integer", name));
  return value->as_integer();
}

std::string text_argument(const Context& context, const Arguments& arguments, size_t index, std::string_view name,
                          const std::string& fallback) {
  const Value* value = argument(arguments, index, name);
  if (!value || value->is_none()) return fallback;
  return need_text(context, *value, name);
}

const std::string& need_text(const Context& context, const Value& value, std::string_view what) {
  const std::string* text = value.text();
  if (text) return *text;
  const auto* missing = std::get_if<Undefined>(&value.data);
  context.fail(missing ? fmt::format("\"{}\" is undefined where {} must be a text", message_text(missing->name), what)
                       : fmt::format("{} where {} must be a text", value.type_name(), what));
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> result;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = first_utf8(text.substr(at));
    result.push_back(text.substr(at, next.bytes));
    at += next.bytes;
  }
  return result;
}

}  // namespace spillway::jinja
