// The filters of the template language, by name, in three tables.
#pragma once

#include <map>
#include <string>

#include "loader/jinja/context.h"

namespace spillway::jinja {

using Filter = Value (*)(Context&, const Value& of, const Arguments&);

const std::map<std::string, Filter>& text_filters();
const std::map<std::string, Filter>& list_filters();
const std::map<std::string, Filter>& order_filters();

// item.a.b, or item.0, as the argument `attribute` of filters has it; the item itself of an attribute that is null or
// none.
Value dotted(Context& context, const Value& item, const Value* path);

}  // namespace spillway::jinja
