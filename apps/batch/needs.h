// What the requests of a batch need of the engine.
#pragma once

#include <cstdint>

#include "runtime/batch.h"
#include "runtime/batch_plan.h"

namespace spillway {

struct BatchNeeds {
  bool guesses = false;  // endless requests get room as they grow (BatchSchedule); else all that they may take
  uint64_t requests = 0;
  uint64_t faults = 0;     // lines that will have an error
  uint64_t endless = 0;    // that say no max_tokens
  int longest = 0;         // positions that one may take
  uint64_t positions = 0;  // all, in whole pages; of endless ones as is expected, where that is a guess
  uint64_t roomy = 0;      // so, were each to take all that it may

  // most_positions: of one request, which an answer without an end of its own may take.
  void add(const BatchRequest& request, int most_positions);
  // For so many requests in a pass; 0: what is fastest.
  BatchWishes wishes(int sequences) const;
};

}  // namespace spillway
