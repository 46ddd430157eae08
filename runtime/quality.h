// Quality of a policy of KV against the full cache in half precision, by the decode path that is timed: prefill, which
// is exact, then given tokens one by one (teacher-forced), each row of logits beside the full cache's for the same
// tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "runtime/metrics.h"

namespace spillway {

// What the full cache gave in one window.
struct ReferenceRows {
  int vocab = 0;
  std::vector<float> logits;    // [steps x vocab]
  std::vector<int32_t> greedy;  // of a continuation by the likeliest tokens

  std::span<const float> row(size_t step) const { return std::span(logits).subspan(step * vocab, vocab); }
};

// What rows of logits say of a policy, beside the reference's.
struct QualityTally {
  std::vector<double> divergences;  // KL(reference || policy) of each row, in nats
  int64_t same_top = 0;             // rows whose likeliest token is the reference's
  double nll = 0;                   // of the tokens that came, natural logarithm
  int64_t scored = 0;
  int64_t greedy_same = 0;  // leading tokens of the greedy continuation that are the reference's
  int64_t greedy_tokens = 0;

  // `next`: the token that came after the row; below 0: not known. Throws Error(model) where a row is not finite.
  void add(std::span<const float> reference, std::span<const float> row, int32_t next);
  QualityTally& operator+=(const QualityTally& other);
  double mean_divergence() const;
  // The value that `share` of the rows do not pass (nearest rank).
  double divergence_at(double share) const;
  double top1() const { return divergences.empty() ? 0 : static_cast<double>(same_top) / divergences.size(); }
  double perplexity() const;
};

struct QualityWindow {
  std::span<const int32_t> tokens;  // of them the last `steps` are decoded
  int steps = 0;
  int32_t next = -1;    // the token after the last one; below 0: not known
  int greedy = 0;       // tokens of a greedy continuation behind the first decoded one; at most `steps`
  bool checks = false;  // the policy chooses: look at what its choice misses where everything is read

  // That comes after the step's own; below 0: not known.
  int32_t token_after(size_t step) const {
    const size_t at = tokens.size() - static_cast<size_t>(steps) + step + 1;
    return at < tokens.size() ? tokens[at] : next;
  }
};

struct QualityCost {
  PhaseCost prefill, decode;  // of the teacher-forced steps alone
  ChosenCounts chosen;        // of these steps
  uint64_t kv_kept = 0;       // bytes of the pages that there are at the end of these steps, in any tier
  MissedMass missed;          // where every step read everything (the trajectory of the full attention)
};

struct QualityHooks {
  OnProgress on_progress;  // steps; may throw to end it
};

// Positions that an engine with two sequences needs for a window.
int quality_context(int tokens, int steps);

// Decodes the window; its rows go to `reference` where `tally` is null, else are compared with it.
QualityCost measure_window(Engine& engine, const QualityWindow& window, ReferenceRows& reference, QualityTally* tally,
                           const QualityHooks& hooks);

// The greedy continuation of `prompt`, whose first `prefill` tokens are prefilled and whose others are decoded one by
// one.
std::vector<int32_t> continue_greedily(Engine& engine, std::span<const int32_t> prompt, int prefill, int tokens,
                                       const QualityHooks& hooks);

}  // namespace spillway
