#include "tests/fuzz/chat_template_case.h"

#include "kernels/check.h"
#include "loader/chat_template.h"

namespace spillway {

bool try_chat_template(std::string_view source) {
  static const char* const kConversations[] = {
      R"({"messages": [{"role": "user", "content": "Hi \u00e9"}], "add_generation_prompt": true})",
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "x"}]},
          {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]},
          {"role": "tool", "content": "{}"}], "tools": [{"function": {"name": "f"}}], "n": 3, "s": "abc", "l": [1, 2]})"};
  bool rendered = false;
  try {
    Checkpoint checkpoint;
    checkpoint.meta["tokenizer.ggml.model"] = std::string("gpt2");
    const ChatTemplate chat = ChatTemplate::parse(std::string(source), "case", checkpoint);
    for (const char* conversation : kConversations) {
      try {
        chat.render_json(conversation);
        rendered = true;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::usage) throw;
      }
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
  }
  return rendered;
}

}  // namespace spillway
