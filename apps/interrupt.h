// Ctrl-C: the work under way stops at its next boundary (a token, a chunk of the prompt, a unit of weights); a second
// one ends the program at once, as the first does while input is waited for. The exit code is 130 either way.
#pragma once

namespace spillway {

inline constexpr int kInterruptedCode = 130;

// Ends up in main().
struct Interrupted {};

void catch_interrupts();
bool interrupted();
// Throws Interrupted.
void stop_if_interrupted();

// While it lives the first interrupt ends the program: for waiting on input, which has no boundary and nothing to undo.
class InterruptsEnd {
 public:
  InterruptsEnd();  // throws Interrupted when one came before
  ~InterruptsEnd();
  InterruptsEnd(const InterruptsEnd&) = delete;
  InterruptsEnd& operator=(const InterruptsEnd&) = delete;
};

}  // namespace spillway
