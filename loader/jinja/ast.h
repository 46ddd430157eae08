// The tree of a template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loader/jinja/value.h"

namespace spillway::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

// What `items`, `body`, `other` and `named` hold is said beside each.
enum class Kind {
  // Expressions.
  literal,      // value
  name,         // text
  attribute,    // items[0] . text
  subscript,    // items[0] [ items[1] ]
  slice,        // items: begin, end, step; null where left out
  call,         // items[0] ( items[1...], named )
  filter,       // items[0] | text ( items[1...], named ); items[0] is null in a filter block
  test,         // items[0] is text ( items[1...] )
  unary,        // text: "not", "-", "+"; items[0]
  binary,       // text: an operator, "and", "or", "~"; items[0], items[1]
  comparison,   // items[0], then for each of `names` the next item
  conditional,  // items[0] if items[1] else items[2], which may be null
  list,         // items
  tuple,        // items
  dict,         // items: key, value in turn
  // Statements.
  output,        // text, as it is
  print,         // items[0]
  for_loop,      // items: iterable, filter or null; names: targets; body; other: else
  if_chain,      // items: conditions, one for each of branches; other: else
  set,           // names: targets (with a dot: of a namespace); items[0]; or body, through the filters in items[0]
  macro,         // text: name; names: parameters; items: defaults, null where there is none; body
  call_block,    // items[0]: the call; names: parameters of caller; body
  filter_block,  // items[0]: the filter; body
  with,          // names; items: their values; body
  block,         // body alone: generation
  break_loop,
  continue_loop,
};

struct Node {
  Kind kind;
  int line;
  std::string text;
  Value value;
  Nodes items, body, other;
  std::vector<std::pair<std::string, NodePtr>> named;
  std::vector<std::string> names;
  std::vector<Nodes> branches;
};

}  // namespace spillway::jinja
