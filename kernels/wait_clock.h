// WaitClock: how long a stream of a device stood still for what had not arrived, by Event::arrival.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "kernels/device.h"

namespace spillway {

// One thread adds at a time, any may read.
class WaitClock {
 public:
  void add(uint8_t arrival, int64_t nanoseconds) {
    nanoseconds_[arrival].fetch_add(nanoseconds, std::memory_order_relaxed);
  }
  int64_t nanoseconds(uint8_t arrival) const { return nanoseconds_[arrival].load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<int64_t>, kArrivals> nanoseconds_{};
};

}  // namespace spillway
