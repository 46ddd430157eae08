// The real model that some tests want: what scripts/fetch-model.sh keeps.
#pragma once

#include <string>

namespace spillway {

inline constexpr const char* kNoRealModel = "SmolLM2 is not there: run scripts/fetch-model.sh, or set SPILLWAY_MODEL";

// $SPILLWAY_MODEL, else the cache folder's file; empty when there is none.
std::string real_model();

}  // namespace spillway
