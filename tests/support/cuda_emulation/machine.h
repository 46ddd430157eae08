// The fake machine behind the fake runtime (runtime.h): memory with its guards, and streams whose heads are run in
// random order. For the files of this folder.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tests/support/cuda_emulation/runtime.h"

namespace spillway::emulation {

inline constexpr size_t kDeviceBytes = size_t{4} << 30;
inline constexpr size_t kContextBytes = size_t{1} << 20;

struct EventState {
  uint64_t recorded = 0;
  uint64_t completed = 0;
  uint64_t captured = 0;  // number of the capture it was recorded in last, if it was in one
  bool timed = false;
  std::chrono::steady_clock::time_point completed_at;
};

// Work, or a wait where `work` is empty.
struct Operation {
  std::function<void()> work;
  std::shared_ptr<EventState> event;
  uint64_t ticket = 0;
  std::function<void()> check = {};  // of a kernel in a graph, whenever that is launched
  bool marks = false;                // work that touches no memory: an event, the end of a graph

  bool can_run() const { return work != nullptr || event->completed >= ticket; }
};

// Of a stream, under way.
struct Capture {
  uint64_t number = 0;
  std::thread::id thread;
  std::vector<Operation> operations;
  bool spoilt = false;
};

struct Memory {
  std::byte* raw = nullptr;
  size_t bytes = 0;
  bool device = false;
  bool registered = false;  // not ours: pinned, without guards
};

struct FakeStream {
  std::deque<Operation> queue;
  uint64_t priority = 0;  // of the streams that can go on, the one with the highest does
  std::unique_ptr<Capture> capture;
};

struct FakeEvent {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

struct FakeGraph {
  std::vector<Operation> operations;
};

struct FakeGraphExec {
  std::vector<Operation> operations;
  std::shared_ptr<int> under_way = std::make_shared<int>(0);
};

// All of the fake machine. One lock: whoever waits does the work of everyone.
class Machine {
 public:
  std::recursive_mutex mutex;
  Presence presence = Presence::device;
  Likeness likeness;
  RandomBits random{1};
  uint64_t steps_of_a_priority = 1;  // on average, until a stream's is drawn anew
  std::vector<std::unique_ptr<FakeStream>> streams;
  std::unordered_map<const FakeEvent*, std::unique_ptr<FakeEvent>> events;
  std::unordered_map<const FakeGraph*, std::unique_ptr<FakeGraph>> graphs;
  std::unordered_map<const FakeGraphExec*, std::unique_ptr<FakeGraphExec>> execs;
  uint64_t captures = 0;
  HostCalls calls;
  bool refuses_graphs = false;
  size_t most_pinned = SIZE_MAX;
  size_t taken = 0;  // of the device, by others
  size_t left_at_next_reservation = SIZE_MAX;
  bool context = false;

  size_t device_room() const { return kDeviceBytes - std::min(kDeviceBytes, reserved() + taken); }
  size_t device_free() const { return device_room() - std::min(device_room(), kContextBytes); }
  cudaError_t reserve(void** block, size_t bytes, bool device);
  cudaError_t release(void* block, bool device);
  cudaError_t pin(void* block, size_t bytes);
  cudaError_t unpin(void* block);
  const Memory* find(const void* data, size_t bytes, const std::byte** start = nullptr) const;
  size_t reserved() const;
  void check_empty() const;
  // Of what is under way, nothing but marks is done any more.
  void give_up();
  void drop_all();
  bool idle() const;
  // Whether the calling thread captures a stream; then that capture is spoilt.
  bool spoils_a_capture() const;
  // At the end of the stream's queue, or of what is captured of it.
  void enqueue(FakeStream& stream, Operation operation);
  // Runs heads of streams, in random order, until `reached` holds.
  template <typename Reached>
  void run_until(Reached reached);
  // One head of a stream, by priorities drawn at random; false where none can run.
  bool step();
  void run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel);

 private:
  void set_device_access(bool open);
  void check_guards() const;

  std::map<const std::byte*, Memory> memory_;
  Block block_;
};

template <typename Reached>
void Machine::run_until(Reached reached) {
  while (!reached()) {
    if (step()) continue;
    return fault_unless_unwinding("the streams wait for each other, or for an event that is never recorded");
  }
}

Machine& machine();
using Lock = std::lock_guard<std::recursive_mutex>;

FakeStream& existing(cudaStream_t stream);
FakeEvent& existing(cudaEvent_t event);
FakeGraphExec& existing(cudaGraphExec_t exec);

}  // namespace spillway::emulation
