// The only place that reads the process's environment for folders.
#pragma once

#include "runtime/xdg.h"

namespace spillway {

XdgDirs xdg_of_this_user();

}  // namespace spillway
