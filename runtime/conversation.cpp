#include "runtime/conversation.h"

#include <algorithm>

namespace spillway {

Conversation::Conversation(Engine& engine, const Tokenizer& tokenizer)
    : engine_(engine), tokenizer_(tokenizer), sequence_(engine.open_sequence()) {}

Conversation::~Conversation() { engine_.close_sequence(sequence_); }

void Conversation::clear() {
  engine_.truncate_sequence(sequence_, 0);
  held_.clear();
}

Generation Conversation::answer(std::span<const int32_t> prompt, GenerateOptions options, const GenerateHooks& hooks) {
  check_prompt(prompt, 0, context());
  // The last token is always computed: its logits are the answer's first.
  const size_t most = std::min(held_.size(), prompt.size() - 1);
  const auto differ = std::mismatch(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(most), prompt.begin()).first;
  kept_ = engine_.truncate_sequence(sequence_, static_cast<int>(differ - held_.begin()));
  const auto keep = static_cast<size_t>(kept_);
  options.before = prompt.first(keep);
  held_.assign(prompt.begin(), prompt.end());
  const auto settle = [&] { held_.resize(static_cast<size_t>(engine_.tokens(sequence_))); };
  try {
    Generation result = generate(engine_, tokenizer_, sequence_, prompt.subspan(keep), options, hooks);
    held_.insert(held_.end(), result.tokens.begin(), result.tokens.end());
    settle();  // neither an end token nor the last one drawn was computed, nor all of a prompt that was interrupted
    return result;
  } catch (...) {
    settle();
    throw;
  }
}

}  // namespace spillway
