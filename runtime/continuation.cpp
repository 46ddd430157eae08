#include "runtime/continuation.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/score.h"

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
  const double all = log_sum_exp(logits);
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[id] - all); };
  TokenLogprob result{.logprob = logprob(token), .top = {}};
  const auto count = std::min<size_t>(static_cast<size_t>(std::max(top, 0)), logits.size());
  if (count == 0) return result;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(),
                    [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  for (size_t i = 0; i < count; ++i) result.top.emplace_back(ids[i], logprob(ids[i]));
  return result;
}

Continuation::Continuation(BatchRequest request, const Tokenizer& tokenizer, int positions)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      most_positions_(positions_of(request_, positions)),
      sampler_(request_.options.sampling, tokenizer.vocab()),
      growing_(tokenizer, request_.options, positions, sampler_, nobody_, answer_.generation) {
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
}

bool Continuation::take(std::span<const float> logits) {
  const auto row = logits.first(static_cast<size_t>(tokenizer_.vocab()));
  const int32_t next = sampler_.sample(row);
  const int before = tokens();
  const bool goes_on = growing_.add(next);
  if (request_.logprobs >= 0 && tokens() > before) {
    answer_.logprobs.push_back(token_logprob(row, next, request_.logprobs));
  }
  answer_.generation.decode_steps += goes_on ? 1 : 0;
  return goes_on;
}

void Continuation::put_back() {
  const Generation& answer = answer_.generation;
  const auto there = static_cast<ptrdiff_t>(request_.prompt.size()) - answer.prompt_tokens;
  request_.prompt.insert(request_.prompt.end(), answer.tokens.begin() + there, answer.tokens.end());
}

BatchAnswer Continuation::finish() {
  growing_.finish();
  return std::move(answer_);
}

BatchAnswer Continuation::fail(const Error& error) {
  growing_.finish();
  answer_.error = error.what();
  answer_.error_kind = error.kind();
  return std::move(answer_);
}

}  // namespace spillway
