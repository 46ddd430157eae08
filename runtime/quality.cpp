#include "runtime/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "runtime/score.h"

namespace spillway {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

size_t likeliest(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// A copy of a sequence that lives as long as this.
class Fork {
 public:
  Fork(Engine& engine, SequenceId from) : engine_(engine), id_(engine.fork_sequence(from)) {}
  ~Fork() { engine_.close_sequence(id_); }
  Fork(const Fork&) = delete;
  SequenceId id() const { return id_; }

 private:
  Engine& engine_;
  SequenceId id_;
};

class Steps {
 public:
  Steps(const QualityHooks& hooks, uint64_t total) : hooks_(hooks), total_(total) {}
  void did(uint64_t steps) {
    done_ += steps;
    if (hooks_.on_progress) hooks_.on_progress(done_, total_);
  }

 private:
  const QualityHooks& hooks_;
  uint64_t done_ = 0, total_;
};

std::vector<int32_t> greedy_from(Engine& engine, SequenceId sequence, int32_t token, int count, Steps& steps) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    token = static_cast<int32_t>(likeliest(engine.decode(sequence, token, i + 1 < count)));
    tokens.push_back(token);
    steps.did(1);
  }
  return tokens;
}

}  // namespace

void QualityTally::add(std::span<const float> reference, std::span<const float> row, int32_t next) {
  const double all = log_sum_exp(reference), own = log_sum_exp(row);
  double divergence = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double log_p = reference[i] - all;
    divergence += std::exp(log_p) * (log_p - (row[i] - own));
  }
  if (!std::isfinite(divergence)) {
    throw Error(ErrorKind::model,
                "a row of logits has numbers that are not finite: the model's weights give no answer");
  }
  divergences.push_back(std::max(divergence, 0.0));  // rounding may leave a little less
  same_top += likeliest(reference) == likeliest(row) ? 1 : 0;
  if (next < 0) return;
  nll -= row[next] - own;
  ++scored;
}

QualityTally& QualityTally::operator+=(const QualityTally& other) {
  divergences.insert(divergences.end(), other.divergences.begin(), other.divergences.end());
  same_top += other.same_top;
  nll += other.nll;
  scored += other.scored;
  greedy_same += other.greedy_same;
  greedy_tokens += other.greedy_tokens;
  return *this;
}

double QualityTally::mean_divergence() const {
  if (divergences.empty()) return 0;
  return std::accumulate(divergences.begin(), divergences.end(), 0.0) / static_cast<double>(divergences.size());
}

double QualityTally::divergence_at(double share) const {
  if (divergences.empty()) return 0;
  std::vector<double> sorted = divergences;
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(std::clamp<size_t>(rank, 1, sorted.size()) - 1);
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

double QualityTally::perplexity() const { return scored == 0 ? 0 : std::exp(nll / static_cast<double>(scored)); }

int quality_context(int tokens, int steps) {
  const int prefill = tokens - steps;
  const int shared = prefill / kPageTokens * kPageTokens;  // the page that is not full is copied
  const auto pages = [](int count) { return static_cast<int>(align_up(count, kPageTokens)); };
  return pages(prefill) + pages(tokens - shared);
}

namespace {

// What has been done of a window, and with which engine.
class WindowRun {
 public:
  WindowRun(Engine& engine, const QualityWindow& window, ReferenceRows& reference, QualityTally* tally,
            const QualityHooks& hooks)
      : engine_(engine),
        window_(window),
        prefill_(window.tokens.size() - static_cast<size_t>(window.steps)),
        reference_(reference),
        tally_(tally),
        steps_(hooks, window.tokens.size() + window.greedy + (window.checks ? window.steps : 0)) {}

  QualityCost run() {
    QualityCost cost;
    const SequenceId base = engine_.open_sequence();
    // Another sequence decodes: nothing is fetched ahead for this one.
    cost.prefill = timed(static_cast<int64_t>(prefill_),
                         [&] { engine_.prefill(base, window_.tokens.first(prefill_), 0, false, {}); });
    steps_.did(prefill_);
    const ChosenCounts before = engine_.chosen_counts();
    cost.decode =
        timed(window_.steps, [&] { given(base, [&](size_t step, std::span<const float> row) { take(step, row); }); });
    cost.chosen = engine_.chosen_counts().since(before);
    cost.kv_kept = kept_;
    if (window_.greedy > 0) compare_greedy(base);
    if (window_.checks) cost.missed = look(base);
    engine_.close_sequence(base);
    return cost;
  }

 private:
  PhaseCost timed(int64_t tokens, const std::function<void()>& work) {
    const double begin = now();
    const LinkBytes before = LinkBytes::of(engine_.traffic());
    work();
    return {tokens, now() - begin, LinkBytes::of(engine_.traffic()).since(before)};
  }

  // The given tokens, one by one, in a sequence that forgets them.
  void given(SequenceId base, const std::function<void(size_t step, std::span<const float>)>& on_row) {
    const Fork fork(engine_, base);
    const std::span<const int32_t> tokens = window_.tokens.subspan(prefill_);
    for (size_t i = 0; i < tokens.size(); ++i) {
      on_row(i, engine_.decode(fork.id(), tokens[i], i + 1 < tokens.size()));
      steps_.did(1);
    }
    kept_ = engine_.kv_kept(fork.id());
  }

  void take(size_t step, std::span<const float> row) {
    if (tally_ == nullptr) {
      if (step == 0) reference_ = {.vocab = static_cast<int>(row.size()), .logits = {}, .greedy = {}};
      reference_.logits.insert(reference_.logits.end(), row.begin(), row.end());
      return;
    }
    tally_->add(reference_.row(step), row, window_.token_after(step));
  }

  void compare_greedy(SequenceId base) {
    const Fork fork(engine_, base);
    const auto tokens = greedy_from(engine_, fork.id(), window_.tokens[prefill_], window_.greedy, steps_);
    if (tally_ == nullptr) {
      reference_.greedy = tokens;
      return;
    }
    const auto differ = std::mismatch(tokens.begin(), tokens.end(), reference_.greedy.begin());
    tally_->greedy_same += differ.first - tokens.begin();
    tally_->greedy_tokens += window_.greedy;
  }

  MissedMass look(SequenceId base) {
    const MissedMass before = engine_.missed_mass();
    engine_.set_only_check(true);
    given(base, [](size_t, std::span<const float>) {});
    engine_.set_only_check(false);
    const MissedMass after = engine_.missed_mass();
    return {after.sum - before.sum, after.heads - before.heads};
  }

  Engine& engine_;
  const QualityWindow& window_;
  const size_t prefill_;
  ReferenceRows& reference_;
  QualityTally* tally_;
  Steps steps_;
  uint64_t kept_ = 0;  // bytes of pages that the last sequence of given tokens had at its end
};

}  // namespace

QualityCost measure_window(Engine& engine, const QualityWindow& window, ReferenceRows& reference, QualityTally* tally,
                           const QualityHooks& hooks) {
  SPILLWAY_CHECK(window.steps > 0 && static_cast<int>(window.tokens.size()) > window.steps);
  SPILLWAY_CHECK(window.greedy <= window.steps);
  return WindowRun(engine, window, reference, tally, hooks).run();
}

std::vector<int32_t> continue_greedily(Engine& engine, std::span<const int32_t> prompt, int prefill, int tokens,
                                       const QualityHooks& hooks) {
  SPILLWAY_CHECK(prefill > 0 && prefill < static_cast<int>(prompt.size()));
  Steps steps(hooks, prompt.size() + tokens - 1);
  const SequenceId sequence = engine.open_sequence();
  engine.prefill(sequence, prompt.first(prefill), 0, true, {});
  steps.did(prefill);
  for (size_t i = prefill; i + 1 < prompt.size(); ++i) {
    engine.decode(sequence, prompt[i], true);
    steps.did(1);
  }
  std::vector<int32_t> answer = greedy_from(engine, sequence, prompt.back(), tokens, steps);
  engine.close_sequence(sequence);
  return answer;
}

}  // namespace spillway
