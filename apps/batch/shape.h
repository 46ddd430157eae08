// What the requests of a batch need, and the shape of the engine that serves them: how many at once, on how many
// positions of KV.
#pragma once

#include <cstdint>

#include "apps/running.h"
#include "runtime/batch.h"

namespace spillway {

struct BatchNeeds {
  uint64_t requests = 0;
  uint64_t faults = 0;     // lines that will have an error
  uint64_t endless = 0;    // that say no max_tokens
  int longest = 0;         // positions that one may take
  uint64_t positions = 0;  // all, in whole pages

  // most_positions: of one request, which an answer without an end of its own may take.
  void add(const BatchRequest& request, int most_positions);
};

struct BatchShape {
  int sequences = 1;
  int positions = 0;
};

// What the plan's simulation, made for one sequence, lets expect of passes with a row of each of so many: what is read
// is read once, and a row costs what it does in a prompt.
struct ExpectedPasses {
  double tokens_per_second = 0;  // 0: the machine has not been measured
  const char* bound = "";        // "disk", "link" or "compute"
};
ExpectedPasses expected_passes(const Plan& plan, double sequences);

// Of 1, 2, 4, ... and `most` sequences, those with the highest speed to expect: more of them share what a pass reads,
// and their KV leaves less room for weights that stay. Where not even the longest request fits, as much as does.
BatchShape choose_shape(const Running& running, const BatchNeeds& needs, int most);

}  // namespace spillway
