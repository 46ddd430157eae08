// Ctrl-C: the work under way stops at its next boundary (a token, a chunk of the prompt, a unit of weights); a second
// one ends the program at once. The exit code is 130 either way.
#pragma once

namespace spillway {

inline constexpr int kInterruptedCode = 130;

// Ends up in main().
struct Interrupted {};

void catch_interrupts();
bool interrupted();
// What was interrupted has stopped; the next interrupt is a first one again.
void clear_interrupt();
// Throws Interrupted.
void stop_if_interrupted();

}  // namespace spillway
