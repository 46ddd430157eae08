#include "tests/support/cuda_emulation/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace spillway::emulation {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xa5};
constexpr std::byte kGarbage{0xcb};

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

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

cudaError_t Machine::reserve(void** block, size_t bytes, bool device) {
  *block = nullptr;
  if (bytes == 0) return cudaSuccess;
  const size_t left = device ? std::exchange(left_at_next_reservation, SIZE_MAX) : SIZE_MAX;
  if (left < device_free()) taken += device_free() - left;
  if (device && bytes > device_free()) return cudaErrorMemoryAllocation;
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
  if (!idle()) {
    fault_unless_unwinding("memory is released while streams have work");
    give_up();
  }
  if (!unwinding()) check_guards();
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
  if (!idle()) {
    fault_unless_unwinding("memory is unpinned while streams have work");
    give_up();
  }
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

void Machine::give_up() {
  for (const auto& stream : streams) {
    for (Operation& operation : stream->queue) {
      if (operation.work != nullptr && !operation.marks) operation.work = [] {};
    }
  }
}

void Machine::drop_all() {
  streams.clear();
  events.clear();
  graphs.clear();
  execs.clear();
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

bool Machine::spoils_a_capture() const {
  bool any = false;
  for (const auto& stream : streams) {
    if (stream->capture == nullptr || stream->capture->thread != std::this_thread::get_id()) continue;
    stream->capture->spoilt = any = true;
  }
  return any;
}

void Machine::enqueue(FakeStream& stream, Operation operation) {
  if (stream.capture == nullptr) return stream.queue.push_back(std::move(operation));
  if (stream.capture->thread != std::this_thread::get_id()) fault("a stream is used while another thread captures it");
  stream.capture->operations.push_back(std::move(operation));
}

bool Machine::step() {
  std::vector<FakeStream*> heads;
  for (const auto& stream : streams) {
    if (!stream->queue.empty() && stream->queue.front().can_run()) heads.push_back(stream.get());
  }
  if (heads.empty()) return false;
  FakeStream& stream = **std::max_element(
      heads.begin(), heads.end(), [](const FakeStream* a, const FakeStream* b) { return a->priority < b->priority; });
  if (random.next() % steps_of_a_priority == 0) stream.priority = random.next();
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (operation.work != nullptr) {
    struct Access {
      Machine& machine;
      explicit Access(Machine& m) : machine(m) { machine.set_device_access(true); }
      ~Access() { machine.set_device_access(false); }
    } access(*this);
    try {
      operation.work();
    } catch (const Fault&) {
      if (!unwinding()) throw;  // beside this one
    }
  }
  if (!unwinding()) check_guards();
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

FakeGraphExec& existing(cudaGraphExec_t exec) {
  const auto found = machine().execs.find(exec);
  if (found != machine().execs.end()) return *found->second;
  fault("a graph that does not exist");
}

}  // namespace spillway::emulation
