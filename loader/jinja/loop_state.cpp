#include "loader/jinja/loop_state.h"

namespace spillway::jinja {

std::optional<Value> LoopState::make() {
  if (!items_) return std::nullopt;
  if (running_) context_.fail("a loop whose filter asks for its own next item");
  running_ = true;
  std::optional<Value> item = items_();
  running_ = false;
  return item;
}

const std::optional<Value>& LoopState::peek() {
  if (!ahead_) ahead_ = make();
  return ahead_;
}

std::optional<Value> LoopState::advance() {
  std::optional<Value> item = ahead_ ? std::exchange(ahead_, std::nullopt) : make();
  if (!item) return item;
  ++index_;
  before_ = std::exchange(present_, item);
  return item;
}

int64_t LoopState::length() {
  if (length_) return *length_;
  List rest;
  while (std::optional<Value> item = make()) rest.push_back(std::move(*item));
  length_ = index_ + 1 + (ahead_ ? 1 : 0) + static_cast<int64_t>(rest.size());
  items_ = context_.walk(context_.list(std::move(rest)));
  return *length_;
}

void LoopState::end() {
  items_ = nullptr;
  before_ = present_ = ahead_ = std::nullopt;
}

Value LoopState::variable() {
  return Value::object([state = shared_from_this()](const std::string& name) { return state->tell(name); });
}

Value LoopState::tell(const std::string& name) {
  context_.charge(1);
  if (name == "index") return index_ + 1;
  if (name == "index0") return index_;
  if (name == "first") return index_ == 0;
  if (name == "last") return !peek();
  if (name == "length") return length();
  if (name == "revindex") return length() - index_;
  if (name == "revindex0") return length() - index_ - 1;
  // Of loops that call themselves, which are not known here.
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") return index_ > 0 && before_ ? *before_ : Value::undefined("there is no previous item");
  if (name == "nextitem") return peek() ? *ahead_ : Value::undefined("there is no next item");
  if (name != "cycle") return Value::undefined(name);
  const auto cycle = [state = shared_from_this()](const Arguments& arguments) {
    const List& all = arguments.positional;
    if (all.empty()) state->context_.fail("a cycle of nothing");
    return all[static_cast<size_t>(state->index_) % all.size()];
  };
  return Value(std::make_shared<const Function>(Function{name, cycle}));
}

}  // namespace spillway::jinja
