// A plan in words: where everything lies, and what speed is to be expected.
#pragma once

#include <string>

#include "runtime/plan.h"

namespace spillway {

// One line of where things are: for the start of a run.
std::string describe_placement(const Plan& plan);
// The whole plan as a table, one line an item.
std::string describe_plan(const Plan& plan);

}  // namespace spillway
