// A bounded spin, to be followed by a sleep: a wake-up from the kernel costs many microseconds, a spin without bound
// costs everyone else their core.
#pragma once

#include <chrono>

namespace spillway {

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls `ready` until it is true (then true) or the time is over (then false). It is asked at least once.
template <typename Ready>
bool spin_until(const Ready& ready, std::chrono::nanoseconds limit) {
  if (ready()) return true;
  if (limit.count() <= 0) return false;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 16; i++) {
      cpu_pause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace spillway
