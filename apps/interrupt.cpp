#include "apps/interrupt.h"

#include <csignal>
#include <cstdlib>

namespace spillway {
namespace {

volatile std::sig_atomic_t seen = 0;

void on_interrupt(int) {
  if (seen != 0) std::_Exit(kInterruptedCode);
  seen = 1;
}

}  // namespace

void catch_interrupts() { std::signal(SIGINT, on_interrupt); }
bool interrupted() { return seen != 0; }
void clear_interrupt() { seen = 0; }

void stop_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

}  // namespace spillway
