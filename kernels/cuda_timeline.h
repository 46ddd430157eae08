// CudaTimeline: when the device ran what was enqueued on a stream, for the record of a run (kernels/trace.h): a row of
// kernels, graphs and copies with the device's own times, beside the rows of who enqueued them. It costs two events a
// call, and is made only where a record is under way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda_context.h"
#include "kernels/trace.h"

namespace spillway {

class CudaTimeline {
 public:
  // Waits for the stream once: the device's clock is read off against the host's then, and both run on. Throws
  // Error(io).
  CudaTimeline(CudaContext& context, CudaStream stream, const std::string& stream_name);
  ~CudaTimeline();
  CudaTimeline(const CudaTimeline&) = delete;

  // Around a call that enqueues. `what` lives until the record ends.
  void begin(const char* what, uint64_t bytes);
  void end();
  // What the device is done with becomes part of the record.
  void collect() { collect(false); }

 private:
  // Behind so many calls the host waits.
  static constexpr uint64_t kCalls = 1024;

  struct Call {
    CudaEvent begin = nullptr, end = nullptr;
    const char* what = nullptr;
    uint64_t bytes = 0;
  };
  Call& call(uint64_t number) { return calls_[number % kCalls]; }
  void collect(bool wait);
  int64_t host_time(CudaEvent event);

  CudaContext& context_;
  CudaStream stream_;
  Trace::Track track_;
  std::vector<Call> calls_;
  uint64_t begun_ = 0, collected_ = 0;
  // A point on both clocks. Times from it on come in 32-bit floats, so it moves along with the run.
  CudaEvent known_ = nullptr;
  int64_t known_time_ = 0;
};

}  // namespace spillway
