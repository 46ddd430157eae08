#include "runtime/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace spillway {

double log_probability(std::span<const float> logits, int32_t id) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - most);
  return logits[id] - most - std::log(sum);
}

void score_window(Engine& engine, const ScoreWindow& window, const ScoreHooks& hooks) {
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
  engine.prefill(sequence, window.tokens.first(prefill), std::clamp(prefill - first_row, 0, prefill), decodes, row,
                 decodes ? OnProgress{} : hooks.on_progress);
  for (int i = prefill; i < total; ++i) {
    row(i, engine.decode(sequence, window.tokens[i], i + 1 < total));
    if (hooks.on_progress) hooks.on_progress(i + 1, total);
  }
  engine.close_sequence(sequence);
}

}  // namespace spillway
