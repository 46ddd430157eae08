// Standard output, watched: what cannot be written there is an Error(io), never a silent loss.
#pragma once

#include <string_view>

namespace spillway {

void put(std::string_view text);
// What was put is out.
void flush_output();
// Whether it is a terminal that shows colours, and nobody asked for none (NO_COLOR, https://no-color.org).
bool colors_standard_output(bool no_color);

}  // namespace spillway
