// The line reader of a terminal.
#pragma once

#include <memory>
#include <string>

#include "apps/line_reader.h"

namespace spillway {

// Emacs keys, or as ~/.editrc binds them. Ctrl-C ends read(), whatever stood in the line; Ctrl-Z stops the program.
std::unique_ptr<LineReader> make_line_editor(const std::string& prompt, const std::string& history_file);

}  // namespace spillway
