#include "apps/chat_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <string_view>

#include "apps/interrupt.h"
#include "kernels/check.h"

namespace spillway {
namespace {

// Of the context, from which on its filling is said.
constexpr double kFullShare = 0.8;

constexpr const char* kHint =
    "/help  /new  /system TEXT  /regenerate  /stats  /exit   Ctrl-C stops an answer, twice leaves";
constexpr const char* kHelp =
    "/new            starts a new conversation (/clear, too)\n"
    "/system TEXT    sets the system prompt; alone it shows it\n"
    "/regenerate     answers the last message again\n"
    "/stats          speeds and traffic of the last answer, and how full the context is\n"
    "/exit           leaves, as Ctrl-D does\n"
    "The first letters of a command suffice where no other has them. A line that ends in \\ goes on in the next.\n"
    "The arrow keys bring earlier messages back, Ctrl-R looks for them.";
constexpr const char* kCommands[] = {"help", "new", "clear", "system", "regenerate", "stats", "exit", "quit"};

void say(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

// "/new", and "/" alone, but not "/etc/hosts holds what?".
bool is_command(const std::string& line) {
  if (line.empty() || line[0] != '/') return false;
  const size_t end = std::min(line.find_first_of(" \t"), line.size());
  return std::all_of(line.begin() + 1, line.begin() + static_cast<ptrdiff_t>(end),
                     [](unsigned char c) { return std::isalpha(c) != 0; });
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

}  // namespace

ChatSession::ChatSession(Running& running, Engine& engine, const ChatTemplate& chat_template,
                         const GenerateOptions& options, const std::string& system)
    : running_(running),
      template_(chat_template),
      options_(options),
      system_(system),
      conversation_(engine, running.tokenizer()) {}

int ChatSession::run(LineReader& lines) {
  terminal_ = lines.terminal();
  if (terminal_) say(kHint);
  bool complained = false;
  bool leaving = false;  // one more interrupt leaves
  for (;;) {
    std::string line;
    const LineEnd end = lines.read(line);
    if (!complained && !lines.complaint().empty()) say(lines.complaint());
    complained = !lines.complaint().empty();
    if (end == LineEnd::end) return 0;
    if (end == LineEnd::interrupted) {
      if (leaving) return kInterruptedCode;
      leaving = line.empty();
      if (leaving) say("Ctrl-C once more, or /exit, leaves");
      continue;
    }
    leaving = false;
    line = trimmed(line);
    if (line.empty()) continue;
    const Next next = is_command(line) ? command(line) : turn(line);
    if (next == Next::leave) return 0;
    if (next != Next::interrupted) continue;
    if (!terminal_) return kInterruptedCode;
    leaving = true;
  }
}

ChatSession::Next ChatSession::command(const std::string& line) {
  const size_t end = std::min(line.find_first_of(" \t"), line.size());
  const std::string given = line.substr(1, end - 1), text = trimmed(line.substr(end));
  std::vector<std::string_view> meant;
  for (const std::string_view one : kCommands) {
    if (one.starts_with(given)) meant.push_back(one);
  }
  const std::string_view name = meant.size() == 1 ? meant.front() : "";
  Next next = Next::go_on;
  if (name == "help") {
    say(kHelp);
  } else if (name == "new" || name == "clear") {
    forget();
    say("a new conversation");
  } else if (name == "system" && text.empty()) {
    say(system_.empty() ? "the system prompt is the model's own" : system_);
  } else if (name == "system") {
    system_ = text;
    say(messages_.empty() ? "the system prompt is set" : "the system prompt is set; the next turn reads all anew");
  } else if (name == "regenerate") {
    regenerate(next);
  } else if (name == "stats") {
    if (answered_) say(running_.stats_text(last_));
    say(fmt::format("context: {} of {} positions are taken; {} of the last prompt were there already",
                    conversation_.tokens(), conversation_.context(), conversation_.kept()));
  } else if (name == "exit" || name == "quit") {
    next = Next::leave;
  } else {
    say(meant.empty() ? fmt::format("/{} is no command: /help lists them", given)
                      : fmt::format("/{} may be /{}", given, fmt::join(meant, ", /")));
  }
  return next;
}

void ChatSession::forget() {
  conversation_.clear();
  messages_.clear();
  answered_ = room_said_ = false;
}

void ChatSession::regenerate(Next& next) {
  if (!messages_.empty() && messages_.back().role == "assistant") messages_.pop_back();
  if (messages_.empty()) {
    say("there is nothing to answer again");
  } else {
    next = answer();
  }
}

ChatSession::Next ChatSession::turn(const std::string& message) {
  messages_.push_back({"user", message});
  return answer();
}

std::vector<ChatMessage> ChatSession::all_messages() const {
  std::vector<ChatMessage> all;
  if (!system_.empty()) all.push_back({"system", system_});
  all.insert(all.end(), messages_.begin(), messages_.end());
  return all;
}

ChatSession::Next ChatSession::answer() {
  // What refuses a message leaves the conversation as it was before it.
  const auto refuse = [&](const std::string& why, ErrorKind kind = ErrorKind::usage) {
    if (!terminal_) throw Error(kind, why);
    messages_.pop_back();
    say(why + "; the message was taken back");
    return Next::go_on;
  };
  std::string text;
  std::vector<int32_t> prompt;
  try {
    text = template_.render(all_messages(), true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;  // the template's fault, not the message's
    return refuse(error.what());
  }
  try {
    prompt = running_.tokenizer().encode(text, true, false);
  } catch (const Error& error) {  // a token that the model does not know
    return refuse(error.what(), error.kind());
  }
  const int context = conversation_.context();
  if (static_cast<int>(prompt.size()) >= context) {
    return refuse(
        fmt::format("the conversation with this message has {} tokens, and the context holds {}: shorten it, "
                    "start anew (/new), or give more (-c)",
                    prompt.size(), context));
  }
  if (terminal_) clear_interrupt();  // one that came between the key and here
  GenerateHooks hooks = running_.hooks();
  // Said while there is room left: an answer may cross the mark and fill the context too.
  if (terminal_) hooks.on_step = [this](int taken) { say_filling(taken, "\n"); };
  last_ = conversation_.answer(prompt, options_, hooks);
  ++options_.sampling.seed;  // each answer draws anew, and the same seed gives the same conversation
  answered_ = true;
  running_.end_answer(last_);
  const bool interrupted = last_.finish == FinishReason::interrupted;
  if (interrupted && last_.tokens.empty()) {
    messages_.pop_back();
    if (terminal_) say("stopped before the answer; the message was taken back");
  } else {
    messages_.push_back({"assistant", last_.text});
    say_room();
  }
  return interrupted ? Next::interrupted : Next::go_on;
}

void ChatSession::say_room() {
  if (last_.context_full) {
    say(fmt::format("the context of {} positions is full, and the answer ends here: /new starts anew, -c gives more",
                    conversation_.context()));
  } else {
    say_filling(conversation_.tokens(), "");
  }
}

void ChatSession::say_filling(int taken, const char* before) {
  const int context = conversation_.context();
  if (room_said_ || taken < kFullShare * context) return;
  say(fmt::format("{}context: {} of {} positions are taken ({:.0f} %): /new starts anew, -c gives more", before, taken,
                  context, 100.0 * taken / context));
  room_said_ = true;
}

}  // namespace spillway
