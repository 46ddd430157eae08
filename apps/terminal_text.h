// Text out of a file, made fit for a terminal.
#pragma once

#include <string>
#include <string_view>

namespace spillway {

// One line: control characters as \n, \t or \xNN, and whatever is no UTF-8 as U+FFFD, so that nothing in it moves the
// cursor.
std::string terminal_text(std::string_view text);
// The leading bytes, `most` at most, without half a character at the end.
std::string clip_text(std::string_view text, size_t most);

}  // namespace spillway
