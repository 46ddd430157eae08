// LoopState: where a loop is, and what its variable `loop` tells of it (Jinja's LoopContext).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "loader/jinja/context.h"

namespace spillway::jinja {

// Items are made as the loop comes to them. Only who asks for `last` or `nextitem` has one made ahead, and who asks for
// `length` or what counts from the end, all.
class LoopState : public std::enable_shared_from_this<LoopState> {
 public:
  // `length`: of items that are all there.
  LoopState(Context& context, Walk items, std::optional<int64_t> length)
      : context_(context), items_(std::move(items)), length_(length) {}

  // The next item; nothing after the last.
  std::optional<Value> advance();
  // Lets go of all items: a template may have kept `loop`, even in one of them.
  void end();
  // The variable `loop`.
  Value variable();

 private:
  Value tell(const std::string& name);
  std::optional<Value> make();
  const std::optional<Value>& peek();
  int64_t length();

  Context& context_;
  Walk items_;
  std::optional<int64_t> length_;
  std::optional<Value> before_, present_, ahead_;
  int64_t index_ = -1;
  bool running_ = false;  // an item is being made
};

}  // namespace spillway::jinja
