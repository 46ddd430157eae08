// What the environment says: the one place that asks it.
#pragma once

#include <string>

#include "runtime/xdg.h"

namespace spillway {

// The folders of this user.
XdgDirs xdg_of_this_user();
// Our own cache folder; not made yet (XdgDirs::cache() does).
std::string cache_directory();
// The model that the set-up fetched.
std::string default_model();
// The environment variable's value; empty when unset.
std::string environment(const char* name);

}  // namespace spillway
