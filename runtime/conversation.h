// Conversation: one sequence whose KV is kept from turn to turn: of each prompt only what differs from the tokens held
// is computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/generate.h"

namespace spillway {

class Conversation {
 public:
  // Engine and tokenizer outlive it.
  Conversation(Engine& engine, const Tokenizer& tokenizer);
  ~Conversation();
  Conversation(const Conversation&) = delete;

  // Answers `prompt`, the whole conversation so far: the longest prefix that is held stays, what is held beyond it is
  // dropped, the rest is computed. prompt_tokens counts what was computed. Throws what check_prompt throws, and then
  // holds what it held.
  Generation answer(std::span<const int32_t> prompt, GenerateOptions options, const GenerateHooks& hooks);
  // Forgets everything.
  void clear();

  // Positions held: of the last prompt and its answer.
  int tokens() const { return static_cast<int>(held_.size()); }
  int context() const { return engine_.plan().context; }
  // Tokens of the last prompt that were there already.
  int kept() const { return kept_; }

 private:
  Engine& engine_;
  const Tokenizer& tokenizer_;
  SequenceId sequence_;
  std::vector<int32_t> held_;
  int kept_ = 0;
};

}  // namespace spillway
