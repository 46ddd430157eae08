// A schedule in simulated time: the same list that RingFeed carries out on streams, played against the speed of one link and the
// cost of each step. Used to predict speed, and by the tests to prove that nothing is overwritten before it is read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "prefetch/schedule.h"

namespace spillway {

// One step that reads an item; `seconds` includes whatever else is computed since the step before.
struct SimulatedStep {
  double seconds = 0;
};

struct SimulatedFetch {
  double begin = 0, end = 0;
};

struct Simulation {
  std::vector<SimulatedFetch> fetches;
  std::vector<double> step_begin, step_end;
  double seconds = 0;        // the end of the last step
  double link_busy = 0;      // seconds the link was moving bytes
  double compute_wait = 0;   // seconds steps waited for their item
};

// fetches[i].step == i: one fetch for each step. Fetches run one at a time, in order, each after its place is free and after its
// issuing step has begun.
Simulation simulate(std::span<const Fetch> fetches, std::span<const SimulatedStep> steps, double bytes_per_second);

}  // namespace spillway
