// ChatTemplate: messages to the text a model was taught to answer.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "loader/checkpoint.h"

namespace spillway {

struct ChatMessage {
  std::string role, content;
};

// ChatML as SmolLM2-Instruct writes it: "<|im_start|>ROLE\nCONTENT<|im_end|>\n" for each message. Where the
// conversation does not begin with a system message, the one that the template holds as a literal is put before it, if
// it holds one.
class ChatTemplate {
 public:
  // Reads tokenizer.chat_template. Error(model) when there is none, or none of the kind that is known.
  static ChatTemplate from(const Checkpoint& checkpoint);

  // `add_generation_prompt`: ends with the opening of the assistant's answer. Encode with parse_special.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;

  const std::optional<std::string>& default_system() const { return default_system_; }

 private:
  std::optional<std::string> default_system_;
};

}  // namespace spillway
