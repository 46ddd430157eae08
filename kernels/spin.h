// A bounded spin, to be followed by a sleep: a wake-up from the kernel costs many microseconds, a spin without bound
// costs everyone else their core.
#pragma once

#include <sched.h>

#include <chrono>

namespace spillway {

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct SpinLimit {
  std::chrono::nanoseconds quiet;        // polls and keeps the core
  std::chrono::nanoseconds yielding{0};  // then polls and offers the core to whoever is ready to run on it
};

// Polls `ready` until it is true (then true) or the time is over (then false). It is asked at least once.
template <typename Ready>
bool spin_until(const Ready& ready, const SpinLimit& limit) {
  if (ready()) return true;
  if (limit.quiet + limit.yielding == limit.quiet.zero()) return false;
  const auto quiet_end = std::chrono::steady_clock::now() + limit.quiet;
  const auto end = quiet_end + limit.yielding;
  for (auto now = quiet_end - limit.quiet; now < end; now = std::chrono::steady_clock::now()) {
    if (now >= quiet_end) sched_yield();
    for (int i = 0; i < 16; i++) {
      cpu_pause();
      if (ready()) return true;
    }
  }
  return false;
}

}  // namespace spillway
