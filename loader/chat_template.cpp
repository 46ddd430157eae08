#include "loader/chat_template.h"

#include <fmt/format.h>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr std::string_view kBegin = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

// The system message written out in the template, as in {{ '<|im_start|>system\nYou are ...<|im_end|>\n' }}: none where
// what follows "system" leaves the literal (a message's own content).
std::optional<std::string> literal_system(const std::string& source) {
  const std::string opening = std::string(kBegin) + "system";
  for (size_t at = source.find(opening); at != std::string::npos; at = source.find(opening, at + 1)) {
    size_t begin = at + opening.size();
    if (source.compare(begin, 1, "\n") == 0) {
      begin += 1;
    } else if (source.compare(begin, 2, "\\n") == 0) {
      begin += 2;
    } else {
      continue;
    }
    const size_t end = source.find(kEnd, begin);
    if (end == std::string::npos) break;
    const std::string text = source.substr(begin, end - begin);
    // Inside quotes the same quote ends the literal; outside, a brace begins code.
    const char before = at > 0 ? source[at - 1] : ' ';
    const std::string stops = before == '\'' || before == '"' ? std::string(1, before) + "\\" : "{";
    if (text.find_first_of(stops) == std::string::npos) return text;
  }
  return {};
}

}  // namespace

ChatTemplate ChatTemplate::from(const Checkpoint& checkpoint) {
  const std::string source = checkpoint.text("tokenizer.chat_template", "");
  const auto refuse = [&](const char* what) {
    throw Error(ErrorKind::model,
                fmt::format("{}: {}; known: plain ChatML (<|im_start|>ROLE ... <|im_end|>)", checkpoint.path(), what));
  };
  if (source.empty()) refuse("the model brings no chat template (tokenizer.chat_template)");
  if (source.find(kBegin) == std::string::npos || source.find(kEnd) == std::string::npos) {
    refuse("the model's chat template is of another kind");
  }
  if (source.find("think") != std::string::npos) refuse("the model's chat template is ChatML with thinking");
  ChatTemplate result;
  result.default_system_ = literal_system(source);
  return result;
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  std::string text;
  const auto add = [&text](std::string_view role, std::string_view content) {
    text.append(kBegin).append(role).append("\n").append(content).append(kEnd).append("\n");
  };
  if (default_system_ && !messages.empty() && messages.front().role != "system") add("system", *default_system_);
  for (const ChatMessage& message : messages) add(message.role, message.content);
  if (add_generation_prompt) text.append(kBegin).append("assistant\n");
  return text;
}

}  // namespace spillway
