// One case of the chat templates: all that the loader does with a template it does not know.
#pragma once

#include <string_view>

namespace spillway {

// Parses the template and renders conversations with it. Returns true when it rendered one. Throws only what the loader
// must not throw: anything but Error(model) and Error(usage).
bool try_chat_template(std::string_view source);

}  // namespace spillway
