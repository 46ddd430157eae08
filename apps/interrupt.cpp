#include "apps/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

namespace spillway {
namespace {

volatile std::sig_atomic_t seen = 0;
volatile std::sig_atomic_t at_once = 0;

void on_interrupt(int) {
  if (at_once != 0) {
    constexpr std::string_view kWords = "spillway: interrupted\n";
    static_cast<void>(!::write(STDERR_FILENO, kWords.data(), kWords.size()));
  }
  if (at_once != 0 || seen != 0) std::_Exit(kInterruptedCode);
  seen = 1;
}

}  // namespace

void catch_interrupts() { std::signal(SIGINT, on_interrupt); }
bool interrupted() { return seen != 0; }

void stop_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

InterruptsEnd::InterruptsEnd() {
  at_once = 1;
  if (!interrupted()) return;
  at_once = 0;
  throw Interrupted{};
}

InterruptsEnd::~InterruptsEnd() { at_once = 0; }

}  // namespace spillway
