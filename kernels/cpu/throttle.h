// LinkThrottle: until when a link of a given speed would be busy. A copy that sleeps until then is as slow as the link;
// sleeping too long is made up for by the copies queued behind, so the total follows the speed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace spillway {

class LinkThrottle {
 public:
  using Clock = std::chrono::steady_clock;

  LinkThrottle(double bytes_per_second, Clock::time_point now)
      : seconds_per_byte_(1.0 / bytes_per_second), busy_until_(now) {}

  // The next copy was not ready before `time`: an idle link saves up nothing.
  void idle_until(Clock::time_point time) { busy_until_ = std::max(busy_until_, time); }
  // The link takes on `bytes` more, at time `now`; returns when it has carried them.
  Clock::time_point carry(uint64_t bytes, Clock::time_point now) {
    idle_until(now - kMaxArrears);
    busy_until_ += std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(static_cast<double>(bytes) * seconds_per_byte_));
    return busy_until_;
  }

  // What a copy slower than the link (a stolen core) may make up for later.
  static constexpr auto kMaxArrears = std::chrono::milliseconds(20);

 private:
  double seconds_per_byte_;
  Clock::time_point busy_until_;
};

}  // namespace spillway
