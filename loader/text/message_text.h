// A text of someone else's, fit for a message: read as it was meant, and nothing in it moves the cursor or fills the
// screen.
#pragma once

#include <string>
#include <string_view>

namespace spillway {

// Letters of all scripts as they are; controls, what turns the direction of writing, and bytes that are no UTF-8 in
// digits
// (\x1b, \u202e). What is longer than `most_bytes` is cut between characters, and ends in "...".
std::string message_text(std::string_view text, size_t most_bytes = 96);

}  // namespace spillway
