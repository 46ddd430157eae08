// The built program on a pseudo-terminal: what a person would type, and what the screen would show.
#pragma once

#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "tests/apps/program.h"

namespace spillway {

class Terminal {
 public:
  // `state`: where the history is kept.
  Terminal(const std::vector<std::string>& arguments, const std::string& state) {
    winsize size{.ws_row = 40, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    child_ = forkpty(&screen_, nullptr, nullptr, &size);
    if (child_ != 0) return;
    setenv("XDG_CACHE_HOME", Program::cache().c_str(), 1);
    setenv("XDG_STATE_HOME", state.c_str(), 1);
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    alarm(120);
    std::vector<char*> words{const_cast<char*>(SPILLWAY_PROGRAM)};
    for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
    words.push_back(nullptr);
    execv(SPILLWAY_PROGRAM, words.data());
    _exit(127);
  }
  ~Terminal() {
    if (child_ > 0) kill(child_, SIGKILL), waitpid(child_, nullptr, 0);
    close(screen_);
  }
  Terminal(const Terminal&) = delete;

  // Waits until `text` appears after what was expected before; false after the seconds.
  bool expect(const std::string& text, double seconds = 60) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (;;) {
      if (const size_t at = shown_.find(text, seen_); at != std::string::npos) {
        seen_ = at + text.size();
        return true;
      }
      if (std::chrono::steady_clock::now() > end || !more(100)) return false;
    }
  }
  void type(const std::string& keys) {
    if (write(screen_, keys.data(), keys.size()) < 0) shown_ += "[cannot type]";
  }
  // The exit code once it ends; -1 where a signal ended it.
  int wait() {
    while (more(100)) {
    }
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Whether the terminal hands over whole lines and echoes them, as before the program took it.
  bool is_cooked() const {
    termios now{};
    return tcgetattr(screen_, &now) == 0 && (now.c_lflag & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG);
  }
  const std::string& shown() const { return shown_; }
  // What was shown since the last expected text.
  std::string rest() const { return shown_.substr(seen_); }

 private:
  // False when the program has gone.
  bool more(int milliseconds) {
    pollfd ready{.fd = screen_, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, milliseconds) == 0) return true;
    char bytes[4096];
    const ssize_t count = ::read(screen_, bytes, sizeof bytes);
    if (count <= 0) return false;
    shown_.append(bytes, static_cast<size_t>(count));
    return true;
  }

  int screen_ = -1;
  pid_t child_ = -1;
  std::string shown_;
  size_t seen_ = 0;
};

}  // namespace spillway
