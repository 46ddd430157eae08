// Which unit computes a layer: the device, or the CPU beside it out of host memory, where weights that the device has
// no room for lie anyway. A host's memory may well be read faster than a link moves it; then a layer is better computed
// where it is than sent over (PowerInfer, arXiv 2312.12456, section 2; llama.cpp's -ngl).
//
// The CPU has the first layers, the device the last ones with the head, so that the hidden state crosses once.
#pragma once

#include "runtime/planner.h"

namespace spillway {

// Whether the layers may be divided at all: there is a CPU beside the device, and host memory to compute from.
bool may_split(const PlanInput& input);
// What the CPU's half is planned with, where there is a host budget: host memory is what it computes from, and there is
// no link.
Options options_of_host_unit(const Options& options);
// The plan for as many layers on the device as were asked for; where that was left open, of those that fit the fastest
// by simulation. Throws Error(fit) with the numbers and the nearest thing that would fit.
Plan plan_split(const PlanInput& input);

}  // namespace spillway
