// Renders a template's tree.
#pragma once

#include <string>

#include "loader/jinja/ast.h"

namespace spillway::jinja {

struct RenderLimits {
  int64_t steps = 16 << 20;        // nodes evaluated, bytes and items made
  int64_t output_bytes = 4 << 20;  // of the text
};

// `globals`: the variables a template finds. `name` begins messages. Error(model) for what a template does wrong or we
// do not know, and for what takes more than the limits; Error(usage) with the template's own words where it calls
// raise_exception.
std::string render(const Nodes& nodes, const Dict& globals, const std::string& name, const RenderLimits& limits);

}  // namespace spillway::jinja
