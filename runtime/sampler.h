// Sampler: the next token from the logits. The order of the steps is llama.cpp's: repetition penalty, top-k, top-p,
// min-p, temperature, draw. Same logits and same seed give the same token on every machine: nothing of it depends on
// the platform's random distributions or its exp().
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/ops.h"

namespace spillway {

struct SamplingOptions {
  float temp = 0.8f;            // 0: greedy, the lowest id among equals
  int top_k = 40;               // the k likeliest; 0 or less: all
  float top_p = 0.95f;          // the smallest set of the likeliest that holds this share (arXiv 1904.09751); 1: off
  float min_p = 0.05f;          // at least this share of the likeliest one's probability (arXiv 2407.01082); 0: off
  float repeat_penalty = 1.0f;  // divides logits > 0 and multiplies others of tokens seen (arXiv 1909.05858); 1: off
  int repeat_last_n = 64;       // how many of the last tokens count as seen; -1: all, 0: none
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Throws Error(usage) naming the flag when an option is out of its range.
  Sampler(const SamplingOptions& options, int vocab);

  // logits [vocab]. Throws Error(model) when one is not a number or plus infinity, or when none is finite; minus
  // infinity forbids a token. Takes exactly one random number at temp > 0 and none at temp 0.
  int32_t sample(std::span<const float> logits);
  // What a device may choose for the next draw in place of handing over whole rows, and the same token is drawn; valid
  // until the next accept(). None where the draw needs more of a row than its kMostCandidates, or a quarter, likeliest.
  std::optional<CandidateChoice> choice();
  // As sample(), of what `choice()` gave for the row: `chosen` [candidate_floats(k)]. None, and nothing is drawn, where
  // sample() would throw: it says more, with the whole row.
  std::optional<int32_t> sample_chosen(std::span<const float> chosen);
  // Tells the sampler of a token that is now part of the text (prompt tokens too): for the repetition penalty.
  void accept(int32_t id);

  struct Candidate {
    int32_t id = 0;
    float logit = 0;
    double weight = 0;  // in proportion to the probability
  };
  // What a draw would choose from now, in no particular order: the steps before the draw (at temp 0: the one token).
  std::span<const Candidate> candidates(std::span<const float> logits);

 private:
  std::span<const float> penalised(std::span<const float> logits);
  void keep_top_k(std::span<const float> logits);
  void keep_all(std::span<const float> logits);
  void narrow();
  int32_t draw();
  void keep_top_p(double total);
  double weigh(double temp);

  SamplingOptions options_;
  int vocab_;
  std::mt19937_64 random_;
  std::vector<Candidate> kept_;
  std::vector<int32_t> penalised_;  // of choice()
  std::vector<float> adjusted_;     // logits after the penalty; empty while it is off
  std::deque<int32_t> recent_;
  std::unordered_map<int32_t, int> seen_;  // how often each token occurs in recent_
};

}  // namespace spillway
