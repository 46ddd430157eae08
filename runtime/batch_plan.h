// BatchPlan: how many sequences share a pass of a batch job: the number with which the plan's own schedule, played in
// simulated time, gives most tokens a second within the budgets (FlexGen, arXiv 2303.06865, section 4.3: the block of
// its zig-zag, found by a cost model).
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

struct BatchWishes {
  int positions = 0;        // of one request at most, its prompt and answer
  int mean_positions = 0;   // of a request, as is expected; 0: as many as at most
  int roomy_positions = 0;  // so, where memory is to spare: were each to take all that it may; 0: no more than the mean
  int sequences = 0;        // that share a pass; 0: chosen, up to kMostSequences
  static constexpr int kMostSequences = 256;
};

// The options of so many sequences: room for their mean positions together, and for one that takes them all.
Options batch_options(const Options& options, const BatchWishes& wishes, int sequences);

struct BatchPlan {
  Options options;
  Plan plan;  // with what decided, in words, among its reasons
};
// With room for the mean; where weights and KV all stay on the device, for as much of what is roomy as leaves them
// there. make: of given options; none where they do not fit. Throws what `make` throws; none where not even one
// sequence fits.
using MakePlan = std::function<std::optional<Plan>(const Options& options)>;
std::optional<BatchPlan> plan_batch(const Options& options, const BatchWishes& wishes, const MakePlan& make);

}  // namespace spillway
