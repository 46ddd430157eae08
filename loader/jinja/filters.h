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
// none. `fallback`, where it is a value, stands for what is undefined on the way.
Value dotted(Context& context, const Value& item, const Value* path, const Value* fallback = nullptr);

// A generator of what `begin` gives, which is called when the first item is asked for: until then a filter looks at
// nothing and refuses nothing, as in Jinja, where it is a generator itself. `of`, `arguments`: what `begin` keeps.
Value lazily(Context& context, const Value& of, const Arguments& arguments, std::function<Walk()> begin);

}  // namespace spillway::jinja
