// One emulated thread block: a fiber to each thread, run in random order, and the points where threads meet. A thread
// runs until it comes to a barrier or a warp-wide operation; there it waits for the others. Threads that wait for each
// other for ever, lanes that disagree about who takes part, and threads that miss a barrier are faults.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "tests/support/cuda_emulation/fault.h"
#include "tests/support/cuda_emulation/fiber.h"
#include "tests/support/cuda_emulation/shared_memory.h"
#include "tests/support/random_blocks.h"

namespace spillway::emulation {

struct uint3 {
  uint32_t x = 0, y = 0, z = 0;
};

struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
  constexpr dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
  uint64_t count() const { return uint64_t{x} * y * z; }
};

inline constexpr uint32_t kWarpSize = 32;
inline constexpr uint32_t kMostThreads = 1024;

// What the lanes of a warp do together. Those that meet must do the same.
enum class WarpVerb : uint8_t {
  sync,
  shuffle,
  shuffle_xor,
  shuffle_down,
  shuffle_up,
  ballot,
  load_matrices,
  load_matrices_transposed,
  mma_s8,
  mma_f16,
  mma_bf16
};

class Block {
 public:
  Block();
  ~Block();

  // Runs the whole block; throws the first fault of any thread.
  void run(const std::function<void()>& kernel, dim3 grid, dim3 block, uint3 index, size_t dynamic_bytes,
           RandomBits& random);

  // The block and the thread now running, for the kernel's own calls.
  static Block& current();
  static bool running();
  uint3 thread_index() const { return threads_[running_].index; }
  uint3 block_index() const { return index_; }
  dim3 block_size() const { return size_; }
  dim3 grid_size() const { return grid_; }

  // Whether some thread voted.
  bool barrier(const std::source_location& where, bool vote = false);
  // Returns what the verb gives this lane: a value from another lane, or the ballot.
  uint64_t warp(WarpVerb verb, uint32_t mask, uint64_t value, uint32_t operand, const std::source_location& where);
  // All lanes of the warp bring their operands (tensor_cores.h); whoever comes last computes for all of them.
  void collective(WarpVerb verb, void* operands, const std::source_location& where);
  // Copies into shared memory that land when the thread waits for their group, and not before.
  void copy_async(const SharedArray& array, int64_t offset, const void* source, size_t bytes, size_t read);
  void commit_copies() { threads_[running_].groups++; }
  void wait_for_copies(uint32_t pending);
  SharedMemory& shared() { return shared_; }
  SharedAccess access() const;
  std::string describe_running() const;

 private:
  enum class State : uint8_t { ready, at_barrier, at_warp, ended };
  struct AsyncCopy {
    const SharedArray* array;
    int64_t offset;
    const void* source;
    size_t bytes;
    size_t read;  // of the source; the others become zero
    uint32_t group;
  };
  struct Thread {
    uint3 index;
    State state = State::ready;
    WarpVerb verb{};
    uint32_t mask = 0;
    uint32_t operand = 0;
    uint64_t value = 0;
    uint64_t result = 0;
    std::source_location where;
    // seen[l]: up to which __syncwarp of lane l this thread knows what lane l did; its own entry counts its own.
    std::array<uint32_t, kWarpSize> seen{};
    std::vector<AsyncCopy> copies;
    uint32_t groups = 0;  // committed
  };

  // Who of a warp waits for the others, and at what. Alike: all of them at the same verb with the same mask.
  struct Meeting {
    uint32_t waiting = 0;
    uint32_t ended = 0;
    WarpVerb verb{};
    uint32_t mask = 0;
    bool alike = true;
  };

  static void enter(void* thread);
  void start(const std::function<void()>& kernel, size_t dynamic_bytes);
  void wait();
  bool arrive(uint32_t first_lane, WarpVerb verb, uint32_t mask, const std::source_location& where);
  void meet(uint32_t first_lane, uint32_t mask);
  void join(uint32_t first_lane, uint32_t mask);
  void compute(WarpVerb verb, uint32_t first_lane) const;
  uint64_t taken(const Thread& thread, uint32_t first_lane, uint32_t lane) const;
  [[noreturn]] void stuck() const;
  std::string describe(uint32_t thread) const;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Thread> threads_;
  std::array<Meeting, kMostThreads / kWarpSize> meetings_;
  std::vector<uint32_t> ready_;
  const std::function<void()>* kernel_ = nullptr;
  std::exception_ptr failure_;
  SharedMemory shared_;
  dim3 grid_, size_;
  uint3 index_;
  uint32_t count_ = 0;
  uint32_t running_ = 0;
  uint32_t at_barrier_ = 0;
  uint32_t ended_ = 0;
  uint32_t epoch_ = 1;
  bool vote_ = false;   // of those that wait at the barrier
  bool voted_ = false;  // at the one before
};

template <typename T>
Shared<T>::Element::operator T() const {
  T value;
  Block& block = Block::current();
  block.shared().read(*array_, index_ * static_cast<int64_t>(sizeof(T)), &value, sizeof(T), block.access());
  return value;
}

template <typename T>
const typename Shared<T>::Element& Shared<T>::Element::operator=(const T& value) const {
  Block& block = Block::current();
  block.shared().write(*array_, index_ * static_cast<int64_t>(sizeof(T)), &value, sizeof(T), block.access());
  return *this;
}

template <typename T>
template <typename Wide>
Wide Shared<T>::read_wide(int64_t index) const {
  Wide value;
  Block& block = Block::current();
  block.shared().read(*array_, byte_of(index), &value, sizeof value, block.access());
  return value;
}

template <typename T>
template <typename Wide>
void Shared<T>::write_wide(int64_t index, const Wide& value) const {
  Block& block = Block::current();
  block.shared().write(*array_, byte_of(index), &value, sizeof(Wide), block.access());
}

}  // namespace spillway::emulation
