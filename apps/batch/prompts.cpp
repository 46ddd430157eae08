#include "apps/batch/prompts.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr int kCompletionTokens = 16;  // OpenAI's default of the older url; of chats it is the end of the context

// What a text asks of the tokenizer and does not get is this request's fault, and the job goes on.
std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text, bool add_bos) {
  try {
    return tokenizer.encode(text, true, add_bos);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage && error.kind() != ErrorKind::model) throw;
    throw LineFault("invalid_request", error.what());
  }
}

}  // namespace

std::vector<int32_t> Prompts::prompt(const RequestLine& line) {
  if (!line.ids.empty()) {
    for (const int32_t id : line.ids) {
      if (id < tokenizer_.vocab()) continue;
      throw LineFault("invalid_request",
                      fmt::format("body.prompt: token {} is none of the model's {}", id, tokenizer_.vocab()));
    }
    return line.ids;
  }
  if (!line.chat) return encode(tokenizer_, line.prompt, true);
  if (!template_) template_ = make_template_();
  std::string text;
  try {
    text = template_->render_json(line.variables);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage && error.kind() != ErrorKind::model) throw;
    throw LineFault("chat_template", error.what());
  }
  return encode(tokenizer_, text, false);
}

BatchRequest Prompts::request(uint64_t key, const RequestLine& line) {
  try {
    BatchRequest request{.key = key, .prompt = prompt(line), .logprobs = line.logprobs};
    if (request.prompt.empty()) throw LineFault("invalid_request", "the prompt has no tokens");
    if (request.prompt.size() > static_cast<size_t>(options_.most_positions)) {
      throw LineFault("context_length_exceeded", fmt::format("the prompt has {} tokens, and the context holds {} (-c)",
                                                             request.prompt.size(), options_.most_positions));
    }
    const int unsaid = options_.max_tokens < 0 && !line.chat ? kCompletionTokens : options_.max_tokens;
    request.options.max_tokens = line.max_tokens.value_or(unsaid);
    request.options.sampling = line.sampling;
    request.options.sampling.seed =
        line.seed.value_or(XXH3_64bits_withSeed(line.custom_id.data(), line.custom_id.size(), options_.seed));
    request.options.stops = line.stops;
    request.options.ignore_end = line.ignore_end.value_or(options_.ignore_end);
    return request;
  } catch (const LineFault& fault) {
    throw LineFault(fault.code, fault.what(), line.custom_id);
  }
}

}  // namespace spillway
