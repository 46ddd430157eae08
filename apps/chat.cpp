// spillway chat: turns with the model's own chat template, or one answer (-p, -f).
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "apps/chat_session.h"
#include "apps/commands.h"
#include "apps/environment.h"
#include "apps/flags.h"
#include "apps/line_reader.h"
#include "apps/running.h"
#include "apps/template_flags.h"
#include "loader/chat_template.h"
#include "runtime/generate.h"

namespace spillway {
namespace {

constexpr int kLeastPositions = 256;  // of a conversation; the budgets give more where they can

struct ChatFlags {
  RunFlags run;
  SamplingFlags sampling;
  TextFlags prompt;
  std::string system;
  TemplateFlags chat_template;
  int max_tokens = -1;
};

GenerateOptions options_of(const ChatFlags& flags) {
  return {.max_tokens = flags.max_tokens,
          .sampling = flags.sampling.resolve(),
          .stops = flags.sampling.stops,
          .ignore_end = flags.sampling.ignore_end};
}

int answer_once(const ChatFlags& flags, Running& running, const ChatTemplate& chat_template) {
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", flags.prompt.read()});
  if (messages.back().content.empty()) throw Error(ErrorKind::usage, "the message is empty");
  const std::string text = chat_template.render(messages, true);
  const std::vector<int32_t> prompt = running.tokenizer().encode(text, true, false);
  const int answer = flags.max_tokens >= 0 ? flags.max_tokens : 1;
  const GenerateOptions options = options_of(flags);
  running.check(prompt, options.sampling);
  running.start(static_cast<int>(prompt.size()) + answer, true);
  return running.finish(running.answer(prompt, options));
}

// Where the history cannot be kept, the reader says so when there is something to keep.
std::string history_file() {
  const XdgDirs dirs = xdg_of_this_user();
  try {
    return dirs.state() + "/history";
  } catch (const Error&) {
    return dirs.state_home + "/spillway/history";
  }
}

int talk(const ChatFlags& flags, Running& running, const ChatTemplate& chat_template) {
  const GenerateOptions options = options_of(flags);
  const Sampler refuses_before_loading(options.sampling, running.tokenizer().vocab());
  Engine& engine = running.start(kLeastPositions, true);
  if (const int context = engine.plan().context; isatty(STDIN_FILENO) == 1) {
    std::fprintf(stderr, "context: %d positions\n", context);
  }
  const auto lines = make_line_reader("> ", history_file());
  return ChatSession(running, engine, chat_template, options, flags.system).run(*lines);
}

int run_chat(const ChatFlags& flags) {
  Running running(flags.run);
  const ChatTemplate chat_template = flags.chat_template.resolve(running.model().checkpoint);
  return flags.prompt.given() ? answer_once(flags, running, chat_template) : talk(flags, running, chat_template);
}

}  // namespace

Command add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model by its chat template; -p answers once");
  flags->prompt.add(*command, "The only message (default: turns; each line of standard input is one)");
  add_option(*command, "--sys,--system-prompt", flags->system, "System prompt (default: the model's own)");
  flags->chat_template.add(*command);
  add_option(*command, "-n,--predict", flags->max_tokens, "Tokens of the answer at most; -1: to the end of the context")
      ->check(within(-1))
      ->capture_default_str();
  flags->sampling.add(*command);
  flags->run.add(*command);
  return [flags] { return run_chat(*flags); };
}

}  // namespace spillway
