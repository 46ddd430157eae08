#include "runtime/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace spillway {

double log_sum_exp(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - most);
  return most + std::log(sum);
}

double log_probability(std::span<const float> logits, int32_t id) { return logits[id] - log_sum_exp(logits); }

ScoreCost score_window(Engine& engine, const ScoreWindow& window, const ScoreHooks& hooks) {
  const int total = static_cast<int>(window.tokens.size());
  if (total > engine.plan().context) {
    throw Error(ErrorKind::usage,
                fmt::format("{} tokens do not fit the context of {} (-c)", total, engine.plan().context));
  }
  const auto row = [&](int index, std::span<const float> logits) {
    if (hooks.on_row && index >= total - window.logit_rows) hooks.on_row(index, logits);
    const int next = index + 1;
    if (next < total && next >= window.first_scored && hooks.on_scored) {
      hooks.on_scored(next, log_probability(logits, window.tokens[next]));
    }
  };
  const SequenceId sequence = engine.open_sequence();
  const int prefill = window.prefill > 0 ? std::min(window.prefill, total) : total;
  const int first_row = std::min(window.first_scored - 1, total - window.logit_rows);
  const bool decodes = prefill < total;
  // The cost of what was done since the phase before.
  auto begin = std::chrono::steady_clock::now();
  LinkBytes before = LinkBytes::of(engine.traffic());
  WaitSeconds waited = WaitSeconds::of(engine.waits());
  const auto phase = [&](int tokens) {
    const auto end = std::chrono::steady_clock::now();
    const LinkBytes after = LinkBytes::of(engine.traffic());
    const WaitSeconds waits = WaitSeconds::of(engine.waits());
    PhaseCost cost{.tokens = tokens,
                   .seconds = std::chrono::duration<double>(end - begin).count(),
                   .bytes = after.since(before),
                   .waits = waits.since(waited)};
    begin = end;
    before = after;
    waited = waits;
    return cost;
  };
  ScoreCost cost;
  engine.prefill(sequence, window.tokens.first(prefill), std::clamp(prefill - first_row, 0, prefill), decodes, row,
                 decodes ? OnProgress{} : hooks.on_progress);
  cost.prefill = phase(prefill);
  for (int i = prefill; i < total; ++i) {
    row(i, engine.decode(sequence, window.tokens[i], i + 1 < total));
    if (hooks.on_progress) hooks.on_progress(i + 1, total);
  }
  cost.decode = phase(total - prefill);
  engine.close_sequence(sequence);
  return cost;
}

}  // namespace spillway
