// ChatSession: turns between a person and the model, with a few commands; the KV of earlier turns stays.
#pragma once

#include <string>
#include <vector>

#include "apps/line_reader.h"
#include "apps/running.h"
#include "loader/chat_template.h"
#include "runtime/conversation.h"

namespace spillway {

class ChatSession {
 public:
  // The parts outlive it. `system`: the system prompt, empty for the model's own.
  ChatSession(Running& running, Engine& engine, const ChatTemplate& chat_template, const GenerateOptions& options,
              const std::string& system);

  // Reads and answers until the input ends, or a command or two interrupts end it. Returns the exit code.
  int run(LineReader& lines);

 private:
  enum class Next : uint8_t { go_on, leave, interrupted };

  Next command(const std::string& line);
  Next turn(const std::string& message);
  // Answers the last message of the conversation; one that cannot be answered is taken back.
  Next answer();
  void regenerate(Next& next);
  void forget();
  void say_room();
  // Once, when most of the context is taken; `before` ends a line that is being written.
  void say_filling(int taken, const char* before);
  std::vector<ChatMessage> all_messages() const;

  Running& running_;
  const ChatTemplate& template_;
  GenerateOptions options_;
  std::string system_;
  Conversation conversation_;
  std::vector<ChatMessage> messages_;  // without the system prompt
  Generation last_;
  bool answered_ = false;  // last_ is an answer
  bool room_said_ = false;
  bool terminal_ = false;
};

}  // namespace spillway
