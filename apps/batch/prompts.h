// Prompts: from a line of a batch's input to the request that the engine takes.
#pragma once

#include <functional>
#include <optional>

#include "apps/batch/request_line.h"
#include "loader/chat_template.h"
#include "loader/tokenizer.h"
#include "runtime/batch.h"

namespace spillway {

struct PromptOptions {
  int most_positions = 0;   // of prompt and answer
  int max_tokens = -1;      // of lines that say none; -1: as OpenAI has it, which depends on the url
  bool ignore_end = false;  // of lines that do not say
  uint64_t seed = 0;        // what lines that give none draw theirs from, with their custom_id
};

class Prompts {
 public:
  // make_template is called when the first chat comes; what it throws ends the job.
  Prompts(const Tokenizer& tokenizer, std::function<ChatTemplate()> make_template, const PromptOptions& options)
      : tokenizer_(tokenizer), make_template_(std::move(make_template)), options_(options) {}

  // Throws LineFault where it cannot be run: the template refuses the conversation, or the prompt is empty, or too
  // long.
  BatchRequest request(uint64_t key, const RequestLine& line);

 private:
  std::vector<int32_t> prompt(const RequestLine& line);

  const Tokenizer& tokenizer_;
  std::function<ChatTemplate()> make_template_;
  PromptOptions options_;
  std::optional<ChatTemplate> template_;
};

}  // namespace spillway
