// What the environment says: the one place that asks it.
#pragma once

#include <string>

namespace spillway {

// $XDG_CACHE_HOME/spillway, or ~/.cache/spillway.
std::string cache_directory();
// The model that the set-up fetched.
std::string default_model();
// The environment variable's value; empty when unset.
std::string environment(const char* name);

}  // namespace spillway
