// CudaDeviceStream: a CUDA stream as a Stream. Its events come from a ring of CUDA events, so that nothing is made in a
// step.
//
// The device waits for what is on other streams of the device by itself. What is not (the disk, a worker of the CPU) it
// cannot wait for: wait_for() then holds the enqueuing thread until that operation has been handed to a stream of the
// device, which is where bytes from disk end up (prefetch/copy_engine.h), and lets the device wait for the rest. So
// whatever a stream of the device waits for has been enqueued before: nothing enqueued can wait for ever.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda_context.h"
#include "kernels/cuda_timeline.h"
#include "kernels/cuda_wait_meter.h"
#include "kernels/device.h"

namespace spillway {

// Work that is held back, to be enqueued before anything else is (kernels/cuda_replay.h).
class HeldWork {
 public:
  virtual void enqueue_held() = 0;

 protected:
  ~HeldWork() = default;
};

class CudaDeviceStream final : public Stream {
 public:
  // The context outlives the stream. times_waits: of streams that compute, for it costs two events a wait.
  CudaDeviceStream(CudaContext& context, std::string name, bool times_waits = false);
  ~CudaDeviceStream() override;
  CudaDeviceStream(const CudaDeviceStream&) = delete;

  // For operations: enqueues a call of the table whose first argument is the stream.
  template <typename... Parameters, typename... Arguments>
  void enqueue(const char* what, CudaProblem (*function)(CudaStream, Parameters...), Arguments... arguments) {
    enqueue_bytes(what, 0, function, arguments...);
  }
  // The same, with the problem as the result, which nobody else hears of.
  template <typename... Parameters, typename... Arguments>
  CudaProblem ask(CudaProblem (*function)(CudaStream, Parameters...), Arguments... arguments) {
    enqueue_held();
    changed_ = true;
    return context_.ask(function, stream_, arguments...);
  }
  // `work` is enqueued before whatever comes next.
  void hold(HeldWork& work) { held_ = &work; }
  void enqueue_held() {
    if (held_ != nullptr) std::exchange(held_, nullptr)->enqueue_held();
  }

  const std::string& name() const override { return name_; }
  void copy(void* destination, const void* source, uint64_t bytes) override;
  void copy_few(void* destination, const void* source, uint64_t bytes) override;
  void gather(std::span<const GatherRun> runs) override;
  void wait_for(const Event& event) override;
  const WaitClock* waits() const override { return wait_meter_ ? &wait_meter_->clock() : nullptr; }
  bool orders(const Event& event) const override;
  Event record() override;
  void synchronize() override;
  bool done(uint64_t ticket) override;
  void wait(uint64_t ticket) override;

 private:
  template <typename... Parameters, typename... Arguments>
  void enqueue_bytes(const char* what, uint64_t bytes, CudaProblem (*function)(CudaStream, Parameters...),
                     Arguments... arguments) {
    enqueue_held();
    changed_ = true;
    if (timeline_) timeline_->begin(what, bytes);
    context_.call(what, function, stream_, arguments...);
    if (timeline_) timeline_->end();
  }

  // Lists of gathered runs, in host memory that the device reads: they are written a half of it at a time, so that the
  // host waits only where a whole half is still to be gathered.
  static constexpr size_t kGatherRuns = 8192;
  struct RunList {
    GatherRun* runs = nullptr;
    size_t used = 0;
    int half = 0;
    uint64_t done[2] = {};  // tickets
  };
  std::span<const GatherRun> list_runs(std::span<const GatherRun>& runs);

  // Behind so many steps the host waits. A ticket's CUDA event is used again only when the ticket is done.
  static constexpr uint64_t kEvents = 1024;

  CudaEvent event_of(uint64_t ticket) const { return events_[ticket % kEvents]; }
  bool known_done(uint64_t ticket) const { return done_.load(std::memory_order_acquire) >= ticket; }
  void raise_done(uint64_t ticket);
  CudaDeviceStream* sibling(const Event& event) const;
  void put_after(const Event& event);

  CudaContext& context_;
  std::string name_;
  HeldWork* held_ = nullptr;
  CudaStream stream_ = nullptr;
  std::unique_ptr<CudaTimeline> timeline_;  // where a record was under way when the stream was made
  std::unique_ptr<CudaWaitMeter> wait_meter_;
  std::vector<CudaEvent> events_;
  RunList list_;
  uint64_t recorded_ = 0;          // the newest ticket
  bool changed_ = false;           // something has been enqueued since
  std::atomic<uint64_t> done_{0};  // tickets up to here are known to be done
};

}  // namespace spillway
