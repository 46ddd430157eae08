// CpuStream: one worker thread's FIFO of closures. Compute streams hand each closure the device's Team.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/cpu/team.h"
#include "kernels/device.h"

namespace spillway {

class CpuStream final : public Stream {
 public:
  // team: null for a copy stream. bytes_per_second > 0 throttles copy() to that speed: an emulated link.
  CpuStream(std::string name, Team* team, double bytes_per_second = 0);
  ~CpuStream() override;  // runs what is queued, then ends the worker

  // `name` (a literal) and `bytes` stand in the trace; without a name the work is not shown.
  void enqueue(std::function<void()> work, const char* name = nullptr, uint64_t bytes = 0);

  const std::string& name() const override;
  void copy(void* destination, const void* source, uint64_t bytes) override;
  void gather(std::span<const GatherRun> runs) override;
  void wait_for(const Event& event) override;
  const WaitClock* waits() const override;
  bool orders(const Event& event) const override { return event.timeline == this; }
  Event record() override;
  void synchronize() override;
  bool done(uint64_t ticket) override;
  void wait(uint64_t ticket) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spillway
