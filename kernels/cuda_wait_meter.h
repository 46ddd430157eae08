// CudaWaitMeter: how long a CUDA stream stood still in its waits, in the device's own time: an event before each wait,
// which is done when all that was enqueued before has run, and one behind it. Nobody waits for the two: they are read
// once they are done.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda_context.h"
#include "kernels/wait_clock.h"

namespace spillway {

class CudaWaitMeter {
 public:
  // Throws Error(io) when the device has no more events.
  CudaWaitMeter(CudaContext& context, CudaStream stream);
  ~CudaWaitMeter();
  CudaWaitMeter(const CudaWaitMeter&) = delete;

  // Around what makes the stream wait.
  void begin();
  void end(uint8_t arrival);
  // Counts the waits that are over.
  void collect() { collect(false); }
  const WaitClock& clock() const { return clock_; }

 private:
  // Behind so many waits the host waits, as it does behind so many of a stream's events.
  static constexpr uint64_t kWaits = 1024;

  struct Wait {
    CudaEvent begin = nullptr, end = nullptr;
    uint8_t arrival = 0;
  };
  Wait& wait(uint64_t number) { return waits_[number % kWaits]; }
  void collect(bool wait_for_some);

  CudaContext& context_;
  CudaStream stream_;
  std::vector<Wait> waits_;
  uint64_t begun_ = 0, collected_ = 0;
  WaitClock clock_;
};

}  // namespace spillway
