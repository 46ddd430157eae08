// Continuation: one request's answer as it grows: draws the next token from each row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/batch.h"
#include "runtime/growing_answer.h"
#include "runtime/sampler.h"

namespace spillway {

inline constexpr int kMostLogprobs = 100;
// The logarithms of the probabilities by a row of logits: of one token, and of the `top` likeliest.
TokenLogprob token_logprob(std::span<const float> logits, int32_t token, int top);

class Continuation {
 public:
  // Throws Error(usage): an empty prompt, one of more than `positions` tokens, options out of their range.
  Continuation(BatchRequest request, const Tokenizer& tokenizer, int positions);
  Continuation(const Continuation&) = delete;

  // After put_back() with what has been drawn.
  std::span<const int32_t> prompt() const { return request_.prompt; }
  // What has been computed is lost: all tokens there are, are computed again as a prompt, and the answer goes on.
  void put_back();
  // Positions that the request takes at most: the prompt and all of the answer but its last token.
  int most_positions() const { return most_positions_; }
  // Whether only the context bounds the answer.
  bool endless() const { return request_.options.max_tokens < 0; }
  // Whether any token is wanted at all.
  bool wants_logits() const { return request_.options.max_tokens != 0; }

  // Draws from the logits [vocab] of the next token. True: the answer goes on, and token() is to be computed next.
  bool take(std::span<const float> logits);
  int32_t token() const { return answer_.generation.tokens.back(); }
  int tokens() const { return static_cast<int>(answer_.generation.tokens.size()); }
  // Whether one more step after the next is expected.
  bool expects_another() const { return growing_.expects_another(); }

  // The end; nothing may be called after it.
  BatchAnswer finish();
  BatchAnswer fail(const Error& error);

 private:
  BatchRequest request_;
  const Tokenizer& tokenizer_;
  const int most_positions_;
  BatchAnswer answer_;
  Sampler sampler_;
  GrowingAnswer::OnText nobody_;
  GrowingAnswer growing_;
};

}  // namespace spillway
