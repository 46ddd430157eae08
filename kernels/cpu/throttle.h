// LinkThrottle: makes a copy stream as slow as a link of a given speed. The link's own clock says until when it is
// busy; the copy sleeps up to it. Sleeping too long is made up for by the copies queued behind, so the total follows
// the speed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

namespace spillway {

class LinkThrottle {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LinkThrottle(double bytes_per_second) : seconds_per_byte_(1.0 / bytes_per_second) {}

  // The next copy was not ready before `time`: an idle link saves up nothing.
  void idle_until(Clock::time_point time) { busy_until_ = std::max(busy_until_, time); }
  // Accounts for `bytes` and sleeps until a link of this speed had carried them.
  void carry(uint64_t bytes) {
    busy_until_ = std::max(busy_until_, Clock::now() - kMaxArrears);
    busy_until_ += std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(static_cast<double>(bytes) * seconds_per_byte_));
    std::this_thread::sleep_until(busy_until_);
  }

 private:
  // What a copy slower than the link (a stolen core) may make up for later.
  static constexpr auto kMaxArrears = std::chrono::milliseconds(20);

  double seconds_per_byte_;
  Clock::time_point busy_until_ = Clock::now();
};

}  // namespace spillway
