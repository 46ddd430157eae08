// ChatTemplate: messages to the text a model was taught to answer, by the model's own template.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "loader/checkpoint.h"

namespace spillway {

struct ChatMessage {
  std::string role, content;
};

// A template in the language of Jinja, of which a subset is known (loader/jinja), rendered as Hugging Face's
// transformers renders it. Errors are Error(model) with the line and the way out (another template), and Error(usage)
// where the template itself refuses a conversation.
class ChatTemplate {
 public:
  static constexpr size_t kMostBytes = 128 << 10;  // of a source; the largest real ones have 30,000
  // The checkpoint's own: tokenizer.chat_template of a GGUF, or chat_template.jinja or tokenizer_config.json of its
  // folder. Error(model) when there is none, or it is not understood.
  static ChatTemplate from(const Checkpoint& checkpoint);
  // Another one, for a checkpoint whose special tokens it may name. `name` begins messages. What is wrong with it, here
  // or as it renders, is Error(usage): it was given.
  static ChatTemplate parse(const std::string& source, const std::string& name, const Checkpoint& checkpoint);
  // One of the built-in templates, written in the manner of a family; null when there is none of this name.
  static const char* built_in(const std::string& name);
  static std::vector<std::string> built_in_names();

  // `add_generation_prompt`: ends with the opening of the assistant's answer. Encode with parse_special and without
  // bos, which a template writes where the model wants it.
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;
  // `variables`: a JSON object with what the template is to see: messages, tools, add_generation_prompt and whatever
  // else.
  std::string render_json(const std::string& variables) const;

 private:
  struct Parsed;
  static ChatTemplate made(const std::string& source, const std::string& name, const Checkpoint& checkpoint,
                           ErrorKind fault);

  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace spillway
