#include "runtime/continuation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace spillway {
namespace {

// The context ends an answer as it does in generate(): the last token needs no position.
int positions_of(const BatchRequest& request, int positions) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int most = request.options.max_tokens;
  return static_cast<int>(most < 0 ? positions : std::min<int64_t>(prompt + std::max(0, most - 1), positions));
}

}  // namespace

TokenLogprob token_logprob(std::span<const float> logits, int32_t token, int top) {
  if (top > kMostLogprobs) {
    throw Error(ErrorKind::usage, fmt::format("logprobs: {} tokens of at most {}", top, kMostLogprobs));
  }
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  const double shift = static_cast<double>(largest) + std::log(sum);
  const auto logprob = [&](int32_t id) { return static_cast<float>(static_cast<double>(logits[id]) - shift); };
  TokenLogprob result{.logprob = logprob(token), .top = {}};
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<size_t>(static_cast<size_t>(std::max(top, 0)), ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(),
                    [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  for (size_t i = 0; i < count; ++i) result.top.emplace_back(ids[i], logprob(ids[i]));
  return result;
}

Continuation::Continuation(BatchRequest request, const Tokenizer& tokenizer, int positions)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      positions_(positions),
      sampler_(request_.options.sampling, tokenizer.vocab()),
      out_(request_.options.stops, nobody_, answer_.generation.text) {
  check_prompt(request_.prompt, 0, positions);
  if (request_.logprobs > kMostLogprobs) {
    throw Error(ErrorKind::usage, fmt::format("logprobs: {} tokens of at most {}", request_.logprobs, kMostLogprobs));
  }
  for (const int32_t id : request_.prompt) {
    if (id < 0 || id >= tokenizer.vocab()) {
      throw Error(ErrorKind::usage,
                  fmt::format("token {} of the prompt: the vocabulary has {}", id, tokenizer.vocab()));
    }
    sampler_.accept(id);
  }
  answer_.key = request_.key;
  answer_.generation.prompt_tokens = static_cast<int>(request_.prompt.size());
  most_positions_ = positions_of(request_, positions);
}

bool Continuation::take(std::span<const float> logits) {
  Generation& g = answer_.generation;
  const auto row = logits.first(static_cast<size_t>(tokenizer_.vocab()));
  const int32_t next = sampler_.sample(row);
  if (!request_.options.ignore_end && tokenizer_.is_end(next)) {
    g.finish = FinishReason::stop;
    return false;
  }
  if (request_.logprobs >= 0) answer_.logprobs.push_back(token_logprob(row, next, request_.logprobs));
  g.tokens.push_back(next);
  sampler_.accept(next);
  out_.push(tokenizer_.piece(next));
  if (out_.stopped()) {
    g.finish = FinishReason::stop;
    return false;
  }
  if (g.prompt_tokens + tokens() - 1 >= positions_) {
    g.context_full = true;
    return false;
  }
  const int most = request_.options.max_tokens;
  if (most >= 0 && tokens() >= most) return false;
  ++g.decode_steps;
  return true;
}

bool Continuation::expects_another() const {
  const Generation& g = answer_.generation;
  const int most = request_.options.max_tokens;
  return (most < 0 || tokens() + 1 < most) && g.prompt_tokens + tokens() < positions_;
}

BatchAnswer Continuation::finish() {
  out_.finish();
  return std::move(answer_);
}

BatchAnswer Continuation::fail(const Error& error) {
  out_.finish();
  answer_.error = error.what();
  answer_.error_kind = error.kind();
  return std::move(answer_);
}

}  // namespace spillway
