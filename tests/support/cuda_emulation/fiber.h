// Fiber: a stack of its own for one thread of an emulated block. The scheduler resumes a fiber, which runs until it
// suspends or ends. Switches are announced to the sanitizers by hand: Debian's Boost.Context knows none of them.
#pragma once

#include <cstddef>

namespace spillway::emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Makes the next resume() call entry(argument). If the call before has not returned, its stack is abandoned, not
  // unwound. `entry` lets no exception out.
  void prepare(void (*entry)(void*), void* argument);
  // From the scheduler: runs the fiber until it suspends or its entry returns.
  void resume();
  // From within the fiber: back to the scheduler.
  void suspend();

 private:
  struct Switching;

  std::byte* mapping_ = nullptr;  // a guard page, then the stack
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool idle_ = false;          // between two entries
  void* context_ = nullptr;    // of the fiber, while the scheduler runs
  void* scheduler_ = nullptr;  // of the scheduler, while the fiber runs
  void* fake_stack_ = nullptr;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  void* tsan_fiber_ = nullptr;
  void* tsan_scheduler_ = nullptr;
};

}  // namespace spillway::emulation
