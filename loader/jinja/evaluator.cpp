#include "loader/jinja/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "kernels/check.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {

Evaluator::Evaluator(const Dict& globals, const std::string& name, int64_t steps)
    : context_(name, steps), frame_(std::make_shared<Frame>()) {
  add_functions();
  for (const auto& [key, value] : globals) assign(to_text(key), value);
}

const Value* Evaluator::variable(const std::string& name) {
  for (const Frame* frame = frame_.get(); frame; frame = frame->around.get()) {
    context_.charge(static_cast<int64_t>(frame->variables.size()) / 8);
    for (const auto& [known, value] : frame->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Evaluator::assign(const std::string& name, Value value) {
  const size_t dot = name.find('.');
  auto* variables = &frame_->variables;
  if (dot != std::string::npos) {
    const Value* space = variable(name.substr(0, dot));
    if (!space || !space->space()) {
      context_.fail(fmt::format("sets {}, which is in no namespace", message_text(name)));
    }
    variables = &space->space()->items;
  }
  const std::string last = dot == std::string::npos ? name : name.substr(dot + 1);
  context_.charge(static_cast<int64_t>(variables->size() / 4));
  for (auto& [known, held] : *variables) {
    if (known == last) {
      held = std::move(value);
      return;
    }
  }
  variables->emplace_back(last, std::move(value));
}

Value Evaluator::evaluate(const Node& node) {
  const Depth depth(*this);
  context_.line = node.line;
  context_.charge(1);
  switch (node.kind) {
    case Kind::literal:
      context_.charge(weight_of(node.value) / 16);
      return node.value;
    case Kind::name: {
      const Value* found = variable(node.text);
      if (!found && node.text == "self") context_.unknown("self");
      if (!found) return Value::undefined(node.text);
      context_.charge(found->text() ? weight_of(*found) / 16 : 0);
      return *found;
    }
    case Kind::attribute:
      return context_.attribute(evaluate(*node.items[0]), node.text);
    case Kind::subscript:
      return subscript(node);
    case Kind::call: {
      const Value function = evaluate(*node.items[0]);
      const Arguments arguments = arguments_of(node);
      context_.line = node.line;
      return context_.call(function, arguments);
    }
    case Kind::filter: {
      const Value of = evaluate(*node.items[0]);
      return context_.filter(node.text, of, arguments_of(node));
    }
    case Kind::test:
      return test(node);
    case Kind::unary:
      return unary(node);
    case Kind::binary:
      return binary(node);
    case Kind::comparison:
      return comparison(node);
    case Kind::conditional:
      if (evaluate(*node.items[1]).truth()) return evaluate(*node.items[0]);
      return node.items[2] ? evaluate(*node.items[2]) : Value::undefined("an if without else");
    case Kind::list:
    case Kind::tuple:
      return items(node);
    case Kind::dict:
      return dict(node);
    default:
      context_.fail("a tree that is none");
  }
}

Arguments Evaluator::arguments_of(const Node& call) {
  Arguments arguments;
  for (size_t i = 1; i < call.items.size(); ++i) arguments.positional.push_back(evaluate(*call.items[i]));
  for (const auto& [name, item] : call.named) arguments.named.emplace_back(name, evaluate(*item));
  return arguments;
}

Value Evaluator::filtered(const Node& chain, const Value& of) {
  const Depth depth(*this);
  const Value operand = chain.items[0] ? filtered(*chain.items[0], of) : of;
  return context_.filter(chain.text, operand, arguments_of(chain));
}

Value Evaluator::binary(const Node& node) {
  Value left = evaluate(*node.items[0]);
  if (node.text == "and") return left.truth() ? evaluate(*node.items[1]) : left;
  if (node.text == "or") return left.truth() ? left : evaluate(*node.items[1]);
  const Value right = evaluate(*node.items[1]);
  context_.line = node.line;
  return context_.binary(node.text, left, right);
}

Value Evaluator::comparison(const Node& node) {
  Value left = evaluate(*node.items[0]);
  for (size_t i = 0; i < node.names.size(); ++i) {
    Value right = evaluate(*node.items[i + 1]);
    context_.line = node.line;
    if (!compare(node.names[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

bool Evaluator::compare(const std::string& sign, const Value& left, const Value& right) {
  if (sign == "==") return context_.equals(left, right);
  if (sign == "!=") return !context_.equals(left, right);
  if (sign == "in") return context_.contains(right, left);
  if (sign == "not in") return !context_.contains(right, left);
  const std::partial_ordering order = context_.order(left, right);
  return sign == "<" ? order < 0 : sign == ">" ? order > 0 : sign == "<=" ? order <= 0 : order >= 0;
}

Value Evaluator::unary(const Node& node) {
  const Value value = evaluate(*node.items[0]);
  if (node.text == "not") return Value(!value.truth());
  if (!value.is_number()) context_.fail(fmt::format("{}{} cannot be computed", node.text, value.type_name()));
  if (node.text == "+") return value.real() ? value : Value(value.as_integer());
  return value.real() ? Value(-*value.real()) : context_.binary("-", Value(int64_t{0}), value);
}

Value Evaluator::subscript(const Node& node) {
  const Value of = evaluate(*node.items[0]);
  const Node& index = *node.items[1];
  if (index.kind != Kind::slice) return context_.subscript(of, evaluate(index));
  Value bounds[3] = {Value::none(), Value::none(), Value::none()};
  for (size_t i = 0; i < 3; ++i) {
    if (index.items[i]) bounds[i] = evaluate(*index.items[i]);
  }
  return context_.slice(of, bounds[0], bounds[1], bounds[2]);
}

Value Evaluator::test(const Node& node) {
  const Value of = evaluate(*node.items[0]);
  return Value(context_.test(node.text, of, arguments_of(node).positional));
}

Value Evaluator::items(const Node& node) {
  List made;
  for (const NodePtr& item : node.items) made.push_back(evaluate(*item));
  return context_.list(std::move(made), node.kind == Kind::tuple ? SequenceKind::tuple : SequenceKind::list);
}

// As Python does: a key that is there keeps its place, and has a new value.
void Evaluator::add_to(Dict& made, Value key, Value value) {
  context_.need_key(key);
  context_.charge(static_cast<int64_t>(made.size()));
  for (auto& [known, held] : made) {
    if (!context_.equals(known, key)) continue;
    held = std::move(value);
    return;
  }
  made.emplace_back(std::move(key), std::move(value));
}

Value Evaluator::dict(const Node& node) {
  Dict made;
  for (size_t i = 0; i < node.items.size(); i += 2) {
    Value key = evaluate(*node.items[i]), value = evaluate(*node.items[i + 1]);
    add_to(made, std::move(key), std::move(value));
  }
  return context_.dict(std::move(made));
}

void Evaluator::add_functions() {
  constexpr size_t kLongestRefusal = 1000;  // bytes
  const auto add = [this](const char* name, std::function<Value(const Arguments&)> call) {
    assign(name, Value(std::make_shared<const Function>(Function{name, std::move(call)})));
  };
  add("raise_exception", [](const Arguments& arguments) -> Value {
    const Value* message = argument(arguments, 0, "message");
    throw Error(ErrorKind::usage, fmt::format("the chat template does not take this conversation: {}",
                                              message ? message_text(to_text(*message), kLongestRefusal) : ""));
  });
  add("strftime_now", [this](const Arguments& arguments) {
    const std::string format = text_argument(context_, arguments, 0, "format", "");
    if (format.size() > 64) context_.fail("strftime_now with a format longer than 64 bytes");
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    localtime_r(&now, &local);
    char text[1024];
    return context_.text(std::string(text, std::strftime(text, sizeof text, format.c_str(), &local)));
  });
  add("namespace", [this](const Arguments& arguments) { return make_namespace(arguments); });
  add("range", [this](const Arguments& arguments) { return range(arguments); });
  add("dict", [this](const Arguments& arguments) {
    Dict made;
    if (!arguments.positional.empty()) {
      if (!arguments.positional[0].mapping()) context_.unknown("dict of what is no dict");
      made = arguments.positional[0].mapping()->items;
    }
    for (const auto& [name, value] : arguments.named) add_to(made, Value(name), value);
    return context_.dict(std::move(made));
  });
}

Value Evaluator::make_namespace(const Arguments& arguments) {
  context_.charge(64);
  Dict made;
  for (const Value& from : arguments.positional) {
    if (!from.mapping()) context_.fail("a namespace of what is no dict");
    for (const auto& [key, value] : from.mapping()->items) add_to(made, Value(to_text(key)), value);
  }
  for (const auto& [name, value] : arguments.named) add_to(made, Value(name), value);
  spaces_.push_back(std::make_unique<Namespace>());
  for (auto& [name, value] : made) spaces_.back()->items.emplace_back(*name.text(), std::move(value));
  return Value(spaces_.back().get());
}

Value Evaluator::range(const Arguments& arguments) {
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3) context_.fail("range takes one to three integers");
  const int64_t begin = count > 1 ? integer_argument(context_, arguments, 0, "start", 0) : 0;
  const int64_t end = integer_argument(context_, arguments, count > 1 ? 1 : 0, "stop", 0);
  const int64_t step = integer_argument(context_, arguments, 2, "step", 1);
  return context_.range({begin, end, step});
}

}  // namespace spillway::jinja
