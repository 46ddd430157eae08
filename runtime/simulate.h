// A schedule in simulated time: the same list that RingFeed carries out on streams, played against the cost of each
// fetch and of each step. The planner predicts speed with it, and the tests prove that nothing is overwritten before it
// is read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "prefetch/schedule.h"

namespace spillway {

struct SimulatedFetch {
  double begin = 0, end = 0;
};

struct Simulation {
  std::vector<SimulatedFetch> fetches;
  std::vector<double> step_begin, step_end;
  double seconds = 0;       // the end of the last step
  double link_busy = 0;     // seconds that fetches took
  double compute_wait = 0;  // seconds steps waited for their item
};

// fetches[i].step == i: one fetch for each step. Fetches run one at a time, in order, each after its place is free and
// after its issuing step has begun, and its first byte no sooner than latency_seconds[i] after that (empty: at once):
// what is asked for ahead hides it. step_seconds[i] includes whatever else is computed since the step before.
Simulation simulate(std::span<const Fetch> fetches, std::span<const double> fetch_seconds,
                    std::span<const double> step_seconds, std::span<const double> latency_seconds = {});

}  // namespace spillway
