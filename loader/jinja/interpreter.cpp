#include "loader/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "loader/jinja/evaluator.h"
#include "loader/jinja/loop_state.h"
#include "loader/text/message_text.h"

namespace spillway::jinja {
namespace {

// What a statement says to the loop around it.
enum class Flow { on, next, out };

class Interpreter : public Evaluator {
 public:
  Interpreter(const Dict& globals, const std::string& name, const RenderLimits& limits)
      : Evaluator(globals, name, limits.steps), most_bytes_(limits.output_bytes) {}

  std::string run(const Nodes& nodes) {
    execute(nodes);
    return std::move(out_);
  }

 private:
  void write(std::string_view text) {
    context_.charge(static_cast<int64_t>(text.size()));
    out_ += text;
    if (static_cast<int64_t>(out_.size()) > most_bytes_) context_.fail("writes more text than a chat template may");
  }

  // What a body writes.
  std::string captured(const Nodes& body) {
    std::string around = std::exchange(out_, {});
    execute(body);
    return std::exchange(out_, std::move(around));
  }

  Flow execute(const Nodes& nodes) {
    for (const NodePtr& node : nodes) {
      const Flow flow = execute(*node);
      if (flow != Flow::on) return flow;
    }
    return Flow::on;
  }

  // What Python has an address or a type to say of is no text that a template can be meant to write.
  void print(const Value& value) {
    const Mapping* mapping = value.mapping();
    if (value.function() || value.is_generator() || value.space() || (mapping && mapping->teller)) {
      context_.unknown(fmt::format("{} as a text", mapping ? "a loop" : value.type_name()));
    }
    write(to_text(value));
  }

  Flow execute(const Node& node) {
    const Depth depth(*this);
    context_.line = node.line;
    context_.charge(1);
    switch (node.kind) {
      case Kind::output:
        write(node.text);
        return Flow::on;
      case Kind::print:
        print(evaluate(*node.items[0]));
        return Flow::on;
      case Kind::for_loop:
        loop(node);
        return Flow::on;
      case Kind::if_chain:
        return branch(node);
      case Kind::set:
        set(node);
        return Flow::on;
      case Kind::macro:
        assign(node.text, macro_of(node));
        return Flow::on;
      case Kind::call_block:
        call_block(node);
        return Flow::on;
      case Kind::filter_block:
        write(to_text(filtered(*node.items[0], Value(captured_in_scope(node.body)))));
        return Flow::on;
      case Kind::with:
        return with(node);
      case Kind::block: {
        const Scope scope(*this, frame_);
        return execute(node.body);
      }
      case Kind::break_loop:
        return Flow::out;
      case Kind::continue_loop:
        return Flow::next;
      default:
        context_.fail("a tree that is none");
    }
  }

  Flow branch(const Node& node) {
    for (size_t i = 0; i < node.items.size(); ++i) {
      if (evaluate(*node.items[i]).truth()) return execute(node.branches[i]);
    }
    return execute(node.other);
  }

  void assign_all(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) {
      assign(names[0], value);
      return;
    }
    const List items = context_.items_of(value);
    if (items.size() != names.size()) {
      context_.fail(fmt::format("{} values for {} names", items.size(), names.size()));
    }
    for (size_t i = 0; i < names.size(); ++i) assign(names[i], items[i]);
  }

  void set(const Node& node) {
    if (!node.value.is_undefined()) {
      Value text = context_.text(captured_in_scope(node.body));
      assign(node.names[0], node.items[0] ? filtered(*node.items[0], text) : text);
    } else {
      assign_all(node.names, evaluate(*node.items[0]));
    }
  }

  std::string captured_in_scope(const Nodes& body) {
    const Scope scope(*this, frame_);
    return captured(body);
  }

  Flow with(const Node& node) {
    List values;
    for (const NodePtr& item : node.items) values.push_back(evaluate(*item));
    const Scope scope(*this, frame_);
    for (size_t i = 0; i < values.size(); ++i) assign(node.names[i], values[i]);
    return execute(node.body);
  }

  // What a loop goes over. Its filter looks at an item when the loop comes to it, and may see what the body has set.
  std::shared_ptr<LoopState> loop_over(const Node& node) {
    const Value of = evaluate(*node.items[0]);
    if (!node.items[1]) {
      if (of.is_generator()) return std::make_shared<LoopState>(context_, context_.walk(of), std::nullopt);
      const Value items = of.sequence() ? of : context_.list(context_.items_of(of));
      return std::make_shared<LoopState>(context_, context_.walk(items),
                                         static_cast<int64_t>(items.sequence()->items.size()));
    }
    const auto kept = [this, &node, items = context_.walk(of), around = frame_]() -> std::optional<Value> {
      while (std::optional<Value> item = items()) {
        const Scope scope(*this, around);
        assign_all(node.names, *item);
        if (evaluate(*node.items[1]).truth()) return item;
      }
      return std::nullopt;
    };
    return std::make_shared<LoopState>(context_, kept, std::nullopt);
  }

  // `else` is for a loop of which no item came to the end of the body: there was none, or each met break or continue
  // (so Jinja, where Python has another rule).
  void loop(const Node& node) {
    struct Running {
      std::shared_ptr<LoopState> state;
      ~Running() { state->end(); }
    } running{loop_over(node)};
    const Value told = running.state->variable();
    bool finished = false;
    while (const std::optional<Value> item = running.state->advance()) {
      const Scope scope(*this, frame_);
      context_.charge(16);
      assign("loop", told);
      assign_all(node.names, *item);
      const Flow flow = execute(node.body);
      finished = finished || flow == Flow::on;
      if (flow == Flow::out) break;
    }
    if (!finished) execute(node.other);
  }

  Value macro_of(const Node& node) {
    // The frame may be gone when a macro that was kept is called.
    return Value(std::make_shared<const Function>(
        Function{node.text, [this, &node, frame = std::weak_ptr<Frame>(frame_)](const Arguments& arguments) {
                   return call_macro(node, frame.lock(), arguments);
                 }}));
  }

  Value call_macro(const Node& node, const std::shared_ptr<Frame>& defined_in, const Arguments& arguments) {
    if (!defined_in)
      context_.fail(fmt::format("the macro {} is called where it is no longer defined", message_text(node.text)));
    if (arguments.positional.size() > node.names.size()) {
      context_.fail(fmt::format("the macro {} takes {} arguments", message_text(node.text), node.names.size()));
    }
    const Depth depth(*this);
    const Scope scope(*this, defined_in);
    for (size_t i = 0; i < node.names.size(); ++i) {
      const Value* given = argument(arguments, i, node.names[i]);
      if (given) {
        assign(node.names[i], *given);
      } else {
        assign(node.names[i], node.items[i] ? evaluate(*node.items[i]) : Value::undefined(node.names[i]));
      }
    }
    for (const auto& [name, value] : arguments.named) {
      const bool known = std::find(node.names.begin(), node.names.end(), name) != node.names.end();
      if (!known && name != "caller")
        context_.fail(fmt::format("the macro {} has no argument {}", message_text(node.text), message_text(name)));
      if (!known) assign(name, value);
    }
    return context_.text(captured(node.body));
  }

  void call_block(const Node& node) {
    const Node& call = *node.items[0];
    Arguments arguments = arguments_of(call);
    arguments.named.emplace_back("caller", macro_of(*node.items[1]));
    write(to_text(context_.call(evaluate(*call.items[0]), arguments)));
  }

  std::string out_;
  const int64_t most_bytes_;
};

}  // namespace

std::string render(const Nodes& nodes, const Dict& globals, const std::string& name, const RenderLimits& limits) {
  return Interpreter(globals, name, limits).run(nodes);
}

}  // namespace spillway::jinja
