// The filters of the template language, by name, in two tables.
#pragma once

#include <map>
#include <string>

#include "loader/jinja/context.h"

namespace spillway::jinja {

using Filter = Value (*)(Context&, const Value& of, const Arguments&);

const std::map<std::string, Filter>& text_filters();
const std::map<std::string, Filter>& list_filters();

}  // namespace spillway::jinja
