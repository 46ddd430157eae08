// Negative log-likelihood of given tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "runtime/engine.h"
#include "runtime/metrics.h"

namespace spillway {

// The logarithm of the sum of the exponentials, in double.
double log_sum_exp(std::span<const float> logits);
// Log of the softmax at `id`, in double.
double log_probability(std::span<const float> logits, int32_t id);

struct ScoreWindow {
  std::span<const int32_t> tokens;
  int first_scored = 1;  // tokens [first_scored, size) are scored
  int logit_rows = 0;    // rows wanted by on_row beyond what scoring needs: the last so many
  int prefill = 0;       // so many first tokens by prefill, each later one by a decode step; 0: all by prefill
};

struct ScoreHooks {
  std::function<void(int index, double log_probability)> on_scored;      // of tokens[index]
  std::function<void(int index, std::span<const float> logits)> on_row;  // after tokens[index]
  OnProgress on_progress;
};

struct ScoreCost {
  PhaseCost prefill, decode;
};

// Runs the window in a sequence of its own; returns what it took, hooks included. Throws Error(usage) when it passes
// the context.
ScoreCost score_window(Engine& engine, const ScoreWindow& window, const ScoreHooks& hooks);

}  // namespace spillway
