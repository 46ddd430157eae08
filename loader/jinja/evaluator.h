// Evaluator: expressions and the variables they see.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loader/jinja/ast.h"
#include "loader/jinja/context.h"

namespace spillway::jinja {

class Evaluator {
 public:
  Evaluator(const Dict& globals, const std::string& name, int64_t steps);
  Evaluator(const Evaluator&) = delete;

  Value evaluate(const Node& node);

 protected:
  // Variables of one scope, which sees those around it.
  struct Frame {
    std::shared_ptr<Frame> around;
    std::vector<std::pair<std::string, Value>> variables;
  };
  // Enters a new scope inside of `around`, and leaves it again.
  class Scope {
   public:
    Scope(Evaluator& evaluator, std::shared_ptr<Frame> around)
        : evaluator_(evaluator),
          before_(std::exchange(evaluator.frame_, std::make_shared<Frame>(Frame{std::move(around), {}}))) {}
    Scope(const Scope&) = delete;
    ~Scope() { evaluator_.frame_ = before_; }

   private:
    Evaluator& evaluator_;
    std::shared_ptr<Frame> before_;
  };
  // Counts how deep evaluations stand in each other, for the stack's sake.
  class Depth {
   public:
    explicit Depth(Evaluator& evaluator) : evaluator_(evaluator) {
      constexpr int kDeepest = 600;
      if (++evaluator_.depth_ > kDeepest) {
        --evaluator_.depth_;
        evaluator_.context_.fail("calls itself too deep");
      }
    }
    Depth(const Depth&) = delete;
    ~Depth() { --evaluator_.depth_; }

   private:
    Evaluator& evaluator_;
  };

  // In the innermost scope; "space.name" of a namespace.
  void assign(const std::string& name, Value value);
  Arguments arguments_of(const Node& call);
  // The filters of a chain whose innermost operand is `of`.
  Value filtered(const Node& chain, const Value& of);

  Context context_;
  std::shared_ptr<Frame> frame_;

 private:
  const Value* variable(const std::string& name);
  Value binary(const Node& node);
  Value comparison(const Node& node);
  bool compare(const std::string& sign, const Value& left, const Value& right);
  Value unary(const Node& node);
  Value subscript(const Node& node);
  Value test(const Node& node);
  Value dict(const Node& node);
  void add_to(Dict& made, Value key, Value value);
  Value items(const Node& node);
  void add_functions();
  Value make_namespace(const Arguments& arguments);
  Value range(const Arguments& arguments);

  std::vector<std::unique_ptr<Namespace>> spaces_;
  int depth_ = 0;
};

}  // namespace spillway::jinja
