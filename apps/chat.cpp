// spillway chat: one answer with the model's own chat template.
#include <fmt/format.h>

#include <filesystem>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/running.h"
#include "loader/chat_template.h"
#include "runtime/generate.h"

namespace spillway {
namespace {

struct ChatFlags {
  RunFlags run;
  SamplingFlags sampling;
  TextFlags prompt;
  std::string system;
  std::string chat_template;
  int max_tokens = -1;
};

// The model's own, or the one that --template names: a built-in one, or a file.
ChatTemplate template_of(const ChatFlags& flags, const Checkpoint& checkpoint) {
  const std::string& given = flags.chat_template;
  if (given.empty()) return ChatTemplate::from(checkpoint);
  if (const char* source = ChatTemplate::built_in(given))
    return ChatTemplate::parse(source, "--template " + given, checkpoint);
  std::error_code ignored;
  if (std::filesystem::status(given, ignored).type() == std::filesystem::file_type::not_found) {
    throw Error(ErrorKind::usage, fmt::format("--template {}: neither a file nor one of {}", given,
                                              fmt::join(ChatTemplate::built_in_names(), ", ")));
  }
  return ChatTemplate::parse(read_text_file("--template", given), given, checkpoint);
}

int run_chat(const ChatFlags& flags) {
  Running running(flags.run);
  const ChatTemplate chat_template = template_of(flags, running.model().checkpoint);
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", flags.prompt.read()});
  if (messages.back().content.empty()) throw Error(ErrorKind::usage, "the message is empty");
  const std::string text = chat_template.render(messages, true);
  const std::vector<int32_t> prompt = running.tokenizer().encode(text, true, false);
  const int answer = flags.max_tokens >= 0 ? flags.max_tokens : 1;
  const GenerateOptions options{.max_tokens = flags.max_tokens,
                                .sampling = flags.sampling.resolve(),
                                .stops = flags.sampling.stops,
                                .ignore_end = flags.sampling.ignore_end};
  running.check(prompt, options.sampling);
  running.start(static_cast<int>(prompt.size()) + answer, true);
  return running.finish(running.answer(prompt, options));
}

}  // namespace

Command add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Answer a message with the model's chat template");
  flags->prompt.add(*command, "The message");
  add_option(*command, "--sys,--system-prompt", flags->system, "System prompt (default: the model's own)");
  add_option(*command, "--template", flags->chat_template,
             "Chat template: a file, or one of " + fmt::format("{}", fmt::join(ChatTemplate::built_in_names(), ", ")) +
                 " (default: the model's own)");
  add_option(*command, "-n,--predict", flags->max_tokens, "Tokens of the answer at most; -1: to the end of the context")
      ->check(within(-1))
      ->capture_default_str();
  flags->sampling.add(*command);
  flags->run.add(*command);
  return [flags] { return run_chat(*flags); };
}

}  // namespace spillway
