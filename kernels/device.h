// Device, Stream, Event: the order of things on a unit that computes. The CPU is a full device: its streams are workers
// with a FIFO each, so asynchronous logic is the same with and without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace spillway {

class Ops;
class Timeline;
class WaitClock;

// Values of Event::arrival are below.
inline constexpr int kArrivals = 32;

// A point on a timeline, copyable; the default one is always done.
struct Event {
  Timeline* timeline = nullptr;
  uint64_t ticket = 0;
  // What is there once it is done, in numbers of whoever moves it (memory/tier.h): who waits for that long is counted
  // by it. 0: waits are not counted.
  uint8_t arrival = 0;

  bool done() const;
  void wait() const;
  Event submitted() const;
};

// A timeline: tickets are handed out in rising order, each becomes done once. Thread-safe.
class Timeline {
 public:
  virtual ~Timeline() = default;
  virtual bool done(uint64_t ticket) = 0;
  // Blocks the calling thread until done. Does not throw: a failed operation is done too, and its error surfaces where
  // the owner of the timeline says (Stream::synchronize, DiskQueue::check).
  virtual void wait(uint64_t ticket) = 0;
  // The operation's own event, where `ticket` was handed out before there was one (memory/pending_events.h): blocks
  // until it has been submitted, not until it is done.
  virtual Event submitted(uint64_t ticket) { return {this, ticket}; }
};

inline bool Event::done() const { return timeline == nullptr || timeline->done(ticket); }
inline void Event::wait() const {
  if (timeline != nullptr) timeline->wait(ticket);
}
inline Event Event::submitted() const { return timeline == nullptr ? Event{} : timeline->submitted(ticket); }

// One of many short stretches that are copied together.
struct GatherRun {
  std::byte* to = nullptr;          // device memory
  const std::byte* from = nullptr;  // host memory of the device, or device memory
  uint64_t bytes = 0;
};

// A FIFO of asynchronous work. Operations are enqueued by one thread at a time and run in order.
class Stream : public Timeline {
 public:
  virtual const std::string& name() const = 0;
  // Copies between any two memories the device can address (device memory, pinned host memory).
  virtual void copy(void* destination, const void* source, uint64_t bytes) = 0;
  // The same of a few bytes from the host, which are there already, to the device: it may take them past the copies of
  // other streams that are queued.
  virtual void copy_few(void* destination, const void* source, uint64_t bytes) { copy(destination, source, bytes); }
  // Copies all the runs, which do not overlap and are a host value, consumed before the call returns: for stretches too
  // short to be copied one by one. A device that is no CPU wants addresses and lengths of multiples of 16.
  virtual void gather(std::span<const GatherRun> runs) = 0;
  // What is enqueued later starts after `event` is done.
  virtual void wait_for(const Event& event) = 0;
  // How long it has stood still in such waits: all that was enqueued before had run, and the event was not done. Whole
  // after synchronize(); null where the device does not tell.
  virtual const WaitClock* waits() const { return nullptr; }
  // Whether the device itself puts what is enqueued here after `event`, so that nothing of the host waits.
  virtual bool orders(const Event& event) const = 0;
  using Timeline::wait;
  // Done when everything enqueued so far has run.
  virtual Event record() = 0;
  // Blocks until the stream is empty; throws the first error any operation met since the last call.
  virtual void synchronize() = 0;
};

enum class DeviceKind : uint8_t { cpu, cuda };

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;
  // Compute threads of a CPU; 1 where the device computes by itself.
  virtual int workers() const = 0;
  // Bytes that could be reserved now (device memory for a GPU; what the machine or the cgroup leaves for a CPU).
  virtual uint64_t free_bytes() const = 0;
  // Bytes of device memory that are taken before anything is reserved, and count against its budget: a GPU's context
  // with the code it loads. 0 where device memory is the process's own.
  virtual uint64_t overhead_bytes() const { return 0; }
  // One block of device memory (or of host memory that the device copies from at full speed), not touched yet; aligned
  // to 4096 bytes at least where the host can address it, else to 256. Throws Error(fit) when it cannot be had. The
  // owner releases it before the device dies.
  virtual std::byte* reserve(uint64_t bytes) = 0;
  virtual void release(std::byte* block, uint64_t bytes) = 0;
  virtual std::byte* reserve_host(uint64_t bytes) = 0;
  virtual void release_host(std::byte* block, uint64_t bytes) = 0;
  // Streams that compute share the device's workers; copy streams have one of their own.
  virtual std::unique_ptr<Stream> make_compute_stream(const std::string& name) = 0;
  // bytes_per_second > 0 emulates a link of that speed (CPU only; a GPU has a real one).
  virtual std::unique_ptr<Stream> make_copy_stream(const std::string& name, double bytes_per_second = 0) = 0;
  virtual Ops& ops() = 0;
  // True when the host reads and writes device memory through plain pointers, so that a disk read may land in it
  // directly.
  virtual bool host_addressable() const = 0;
  // A double for tests: what is measured of it says nothing.
  virtual bool emulated() const { return false; }
  // One line on host memory that the device does not copy from at full speed, and why; empty when all is as it should.
  virtual std::string host_memory_report() const { return {}; }
};

}  // namespace spillway
