// A template's tree out of its tokens.
#pragma once

#include <string>
#include <string_view>

#include "loader/jinja/ast.h"

namespace spillway::jinja {

// Error(model) names the line and the construct that is not known.
Nodes parse(std::string_view source, const std::string& name);

}  // namespace spillway::jinja
