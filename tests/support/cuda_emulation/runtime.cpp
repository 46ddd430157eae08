#include "tests/support/cuda_emulation/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/device_memory.cuh"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace spillway::emulation {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xa5};
constexpr std::byte kGarbage{0xcb};
constexpr size_t kDeviceBytes = size_t{4} << 30;
constexpr size_t kContextBytes = size_t{1} << 20;

struct EventState {
  uint64_t recorded = 0;
  uint64_t completed = 0;
};

// Work, or a wait where `work` is empty.
struct Operation {
  std::function<void()> work;
  std::shared_ptr<EventState> event;
  uint64_t ticket = 0;

  bool can_run() const { return work != nullptr || event->completed >= ticket; }
};

struct Memory {
  std::byte* raw = nullptr;
  size_t bytes = 0;
  bool device = false;
  bool registered = false;  // not ours: pinned, without guards
};

void poison([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(data, bytes);
#endif
}

void unpoison([[maybe_unused]] const void* data, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(data, bytes);
#endif
}

}  // namespace

struct FakeStream {
  std::deque<Operation> queue;
};

struct FakeEvent {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

namespace {

// All of the fake machine. One lock: whoever waits does the work of everyone.
class Machine {
 public:
  std::recursive_mutex mutex;
  Presence presence = Presence::device;
  Likeness likeness;
  RandomBits random{1};
  std::vector<std::unique_ptr<FakeStream>> streams;
  std::unordered_map<const FakeEvent*, std::unique_ptr<FakeEvent>> events;
  size_t most_pinned = SIZE_MAX;
  size_t taken = 0;  // of the device, by others
  bool context = false;

  size_t device_room() const { return kDeviceBytes - std::min(kDeviceBytes, reserved() + taken); }
  cudaError_t reserve(void** block, size_t bytes, bool device);
  cudaError_t release(void* block, bool device);
  cudaError_t pin(void* block, size_t bytes);
  cudaError_t unpin(void* block);
  const Memory* find(const void* data, size_t bytes, const std::byte** start = nullptr) const;
  size_t reserved() const;
  void check_empty() const;
  void drop_all();
  bool idle() const;
  // Runs heads of streams, in random order, until `reached` holds.
  template <typename Reached>
  void run_until(Reached reached);
  // One head of a stream, at random; false where none can run.
  bool step();
  void run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel);

 private:
  void set_device_access(bool open);
  void check_guards() const;

  std::map<const std::byte*, Memory> memory_;
  Block block_;
};

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

cudaError_t Machine::reserve(void** block, size_t bytes, bool device) {
  *block = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (device && bytes > device_room()) return cudaErrorMemoryAllocation;
  const size_t total = (bytes + 3 * kGuardBytes - 1) / kGuardBytes * kGuardBytes;
  auto* raw = static_cast<std::byte*>(std::aligned_alloc(kGuardBytes, total));
  if (raw == nullptr) return cudaErrorMemoryAllocation;
  std::memset(raw, static_cast<int>(kGuard), total);
  std::memset(raw + kGuardBytes, static_cast<int>(kGarbage), bytes);
  poison(raw, kGuardBytes);
  poison(raw + kGuardBytes + bytes, total - kGuardBytes - bytes);
  if (device) poison(raw + kGuardBytes, bytes);
  memory_[raw + kGuardBytes] = {raw, bytes, device};
  *block = raw + kGuardBytes;
  return cudaSuccess;
}

cudaError_t Machine::release(void* block, bool device) {
  if (block == nullptr) return cudaSuccess;
  const auto found = memory_.find(static_cast<std::byte*>(block));
  if (found == memory_.end() || found->second.device != device || found->second.registered) {
    return cudaErrorInvalidValue;
  }
  if (!idle()) fault("memory is released while streams have work");
  check_guards();
  const Memory memory = found->second;
  memory_.erase(found);
  unpoison(memory.raw, memory.bytes + 2 * kGuardBytes);
  std::free(memory.raw);
  return cudaSuccess;
}

cudaError_t Machine::pin(void* block, size_t bytes) {
  size_t pinned = 0;
  const auto* at = static_cast<const std::byte*>(block);
  for (const auto& [start, memory] : memory_) {
    if (at < start + memory.bytes && start < at + bytes) return cudaErrorHostMemoryAlreadyRegistered;
    pinned += memory.registered ? memory.bytes : 0;
  }
  if (bytes > most_pinned - std::min(most_pinned, pinned)) return cudaErrorMemoryAllocation;
  memory_[at] = {nullptr, bytes, false, true};
  return cudaSuccess;
}

cudaError_t Machine::unpin(void* block) {
  const auto found = memory_.find(static_cast<std::byte*>(block));
  if (found == memory_.end() || !found->second.registered) return cudaErrorHostMemoryNotRegistered;
  if (!idle()) fault("memory is unpinned while streams have work");
  memory_.erase(found);
  return cudaSuccess;
}

const Memory* Machine::find(const void* data, size_t bytes, const std::byte** start) const {
  const auto* at = static_cast<const std::byte*>(data);
  auto next = memory_.upper_bound(at);
  if (next == memory_.begin()) return nullptr;
  --next;
  if (at + bytes > next->first + next->second.bytes) return nullptr;
  if (start != nullptr) *start = next->first;
  return &next->second;
}

size_t Machine::reserved() const {
  size_t sum = 0;
  for (const auto& [start, memory] : memory_) sum += memory.device ? memory.bytes : 0;
  return sum;
}

void Machine::check_empty() const {
  if (!memory_.empty()) fault(fmt::format("{} blocks of memory were never released", memory_.size()));
}

void Machine::drop_all() {
  streams.clear();
  events.clear();
  for (const auto& [start, memory] : memory_) {
    if (memory.registered) continue;
    unpoison(memory.raw, memory.bytes + 2 * kGuardBytes);
    std::free(memory.raw);
  }
  memory_.clear();
}

bool Machine::idle() const {
  return std::all_of(streams.begin(), streams.end(), [](const auto& stream) { return stream->queue.empty(); });
}

template <typename Reached>
void Machine::run_until(Reached reached) {
  while (!reached()) {
    if (!step()) fault("the streams wait for each other, or for an event that is never recorded");
  }
}

bool Machine::step() {
  std::vector<FakeStream*> heads;
  for (const auto& stream : streams) {
    if (!stream->queue.empty() && stream->queue.front().can_run()) heads.push_back(stream.get());
  }
  if (heads.empty()) return false;
  FakeStream& stream = *heads[random.next() % heads.size()];
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (operation.work != nullptr) {
    struct Access {
      Machine& machine;
      explicit Access(Machine& m) : machine(m) { machine.set_device_access(true); }
      ~Access() { machine.set_device_access(false); }
    } access(*this);
    operation.work();
  }
  check_guards();
  return true;
}

void Machine::run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& kernel) {
  std::vector<uint32_t> order(grid.count());
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random.next() % i]);
  for (const uint32_t i : order) {
    const uint3 index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    block_.run(kernel, grid, block, index, dynamic_bytes, random);
  }
}

void Machine::set_device_access(bool open) {
  for (const auto& [start, memory] : memory_) {
    if (memory.device) (open ? unpoison : poison)(start, memory.bytes);
  }
}

void Machine::check_guards() const {
  for (const auto& [start, memory] : memory_) {
    if (memory.registered) continue;
    unpoison(memory.raw, kGuardBytes);
    unpoison(start + memory.bytes, kGuardBytes);
    const auto intact = [](const std::byte* zone) {
      return std::all_of(zone, zone + kGuardBytes, [](std::byte b) { return b == kGuard; });
    };
    const bool before = intact(memory.raw);
    const bool after = intact(start + memory.bytes);
    poison(memory.raw, kGuardBytes);
    poison(start + memory.bytes, kGuardBytes);
    if (!before || !after) {
      fault(fmt::format("the guard zone {} a block of {} bytes was written to", before ? "after" : "before",
                        memory.bytes));
    }
  }
}

using Lock = std::lock_guard<std::recursive_mutex>;

FakeStream& existing(cudaStream_t stream) {
  for (const auto& known : machine().streams) {
    if (known.get() == stream) return *known;
  }
  fault("a stream that does not exist (the default stream is not used)");
}

FakeEvent& existing(cudaEvent_t event) {
  const auto found = machine().events.find(event);
  if (found != machine().events.end()) return *found->second;
  fault("an event that does not exist");
}

}  // namespace

void restart(uint64_t seed) {
  Lock lock(machine().mutex);
  machine().check_empty();
  if (!machine().streams.empty() || !machine().events.empty()) fault("streams or events were never destroyed");
  machine().random = RandomBits(seed);
  machine().presence = Presence::device;
  machine().likeness = {};
  machine().most_pinned = SIZE_MAX;
  machine().taken = 0;
}

void abandon() {
  Lock lock(machine().mutex);
  machine().drop_all();
}

void set_presence(Presence presence) {
  Lock lock(machine().mutex);
  machine().presence = presence;
}

void set_likeness(Likeness likeness) {
  Lock lock(machine().mutex);
  machine().likeness = likeness;
}

void limit_pinned(size_t bytes) {
  Lock lock(machine().mutex);
  machine().most_pinned = bytes;
}

void take_device_memory(size_t bytes) {
  Lock lock(machine().mutex);
  machine().taken = bytes;
}

void check_addressable(const void* data, size_t bytes) {
  // A kernel runs under the lock of whoever waits; to TSan its fibers are threads that do not hold it.
  std::unique_lock<std::recursive_mutex> lock(machine().mutex, std::defer_lock);
  if (!Block::running()) lock.lock();
  if (machine().find(data, bytes) == nullptr) {
    fault(fmt::format("{} bytes at {} are neither device memory nor pinned", bytes, data));
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorHostMemoryAlreadyRegistered:
      return "part or all of the requested memory range is already mapped";
    case cudaErrorHostMemoryNotRegistered:
      return "pointer does not correspond to a registered memory region";
    case cudaErrorNotSupported:
      return "operation not supported";
  }
  return "unrecognized error code";
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().presence == Presence::no_driver ? 0 : 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().presence == Presence::device ? 1 : 0;
  if (machine().presence == Presence::no_driver) return cudaErrorInsufficientDriver;
  return *count == 1 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  const Likeness& likeness = machine().likeness;
  *properties = {.name = "emulated",
                 .major = likeness.major,
                 .minor = likeness.minor,
                 .multiProcessorCount = likeness.multiprocessors,
                 .totalGlobalMem = kDeviceBytes};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  const Likeness& likeness = machine().likeness;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = likeness.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = likeness.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = likeness.minor;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  Lock lock(machine().mutex);
  machine().context = machine().context || device == 0;
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  Lock lock(machine().mutex);
  *total = kDeviceBytes;
  *available = machine().device_room() - std::min(machine().device_room(), kContextBytes);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** block, size_t bytes) {
  Lock lock(machine().mutex);
  return machine().reserve(block, bytes, true);
}

cudaError_t cudaFree(void* block) {
  Lock lock(machine().mutex);
  return machine().release(block, true);
}

cudaError_t cudaHostAlloc(void** block, size_t bytes, unsigned) {
  Lock lock(machine().mutex);
  return machine().reserve(block, bytes, false);
}

cudaError_t cudaFreeHost(void* block) {
  Lock lock(machine().mutex);
  return machine().release(block, false);
}

cudaError_t cudaHostRegister(void* block, size_t bytes, unsigned) {
  Lock lock(machine().mutex);
  return machine().pin(block, bytes);
}

cudaError_t cudaHostUnregister(void* block) {
  Lock lock(machine().mutex);
  return machine().unpin(block);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Lock lock(machine().mutex);
  machine().streams.push_back(std::make_unique<FakeStream>());
  *stream = machine().streams.back().get();
  return cudaSuccess;
}

// CUDA lets the work of a destroyed stream run on; nobody could say when it has ended, so here it is a fault.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(machine().mutex);
  if (!existing(stream).queue.empty()) fault("a stream is destroyed while it has work");
  std::erase_if(machine().streams, [stream](const auto& known) { return known.get() == stream; });
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(machine().mutex);
  const FakeStream& waited = existing(stream);
  machine().run_until([&] { return waited.queue.empty(); });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(machine().mutex);
  const auto& state = existing(event).state;
  existing(stream).queue.push_back({nullptr, state, state->recorded});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Lock lock(machine().mutex);
  auto made = std::make_unique<FakeEvent>();
  *event = made.get();
  machine().events[made.get()] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(machine().mutex);
  existing(event);
  machine().events.erase(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(machine().mutex);
  const auto& state = existing(event).state;
  const uint64_t ticket = ++state->recorded;
  existing(stream).queue.push_back(
      {[state, ticket] { state->completed = std::max(state->completed, ticket); }, nullptr, 0});
  return cudaSuccess;
}

// Time passes while the host asks.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(machine().mutex);
  const auto state = existing(event).state;
  if (state->completed < state->recorded) machine().step();
  return state->completed >= state->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(machine().mutex);
  const auto state = existing(event).state;
  machine().run_until([&] { return state->completed >= state->recorded; });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Lock lock(machine().mutex);
  const bool pageable =
      machine().most_pinned != SIZE_MAX && (!machine().find(destination, bytes) || !machine().find(source, bytes));
  const auto run = [=] {
    if (!pageable) {
      check_addressable(destination, bytes);
      check_addressable(source, bytes);
    }
    std::memmove(destination, source, bytes);
  };
  if (!pageable) {
    check_addressable(destination, bytes);
    check_addressable(source, bytes);
  }
  FakeStream& queue = existing(stream);
  queue.queue.push_back({run, nullptr, 0});
  if (pageable) machine().run_until([&] { return queue.queue.empty(); });
  return cudaSuccess;
}

cudaError_t enqueue_grid(cudaStream_t stream, dim3 grid, dim3 block, size_t dynamic_bytes,
                         std::function<void()> kernel) {
  Lock lock(machine().mutex);
  const bool fits = grid.count() > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 &&
                    block.count() > 0 && block.count() <= kMostThreads && dynamic_bytes <= kMostSharedBytes;
  if (!fits) return cudaErrorInvalidValue;
  existing(stream).queue.push_back(
      {[=, kernel = std::move(kernel)] { machine().run_grid(grid, block, dynamic_bytes, kernel); }, nullptr, 0});
  return cudaSuccess;
}

}  // namespace spillway::emulation

namespace spillway::cuda {

bool free_without_context(int, uint64_t* bytes) {
  emulation::Lock lock(emulation::machine().mutex);
  *bytes = emulation::machine().device_room() - (emulation::machine().context ? emulation::kContextBytes : 0);
  return true;
}

}  // namespace spillway::cuda
