#include "tests/support/cuda_emulation/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "tests/support/cuda_emulation/runtime.h"
#include "tests/support/cuda_emulation/tensor_cores.h"

namespace spillway::emulation {
namespace {

thread_local Block* current_block = nullptr;

const char* name_of(WarpVerb verb) {
  switch (verb) {
    case WarpVerb::sync:
      return "__syncwarp";
    case WarpVerb::ballot:
      return "a vote";
    case WarpVerb::load_matrices:
    case WarpVerb::load_matrices_transposed:
      return "a load of matrices";
    case WarpVerb::mma_s8:
    case WarpVerb::mma_f16:
    case WarpVerb::mma_bf16:
      return "a product of matrices";
    default:
      return "a shuffle";
  }
}

std::string place(const std::source_location& where) {
  return fmt::format("{}:{} in {}", where.file_name(), where.line(), where.function_name());
}

}  // namespace

Block::Block() = default;
Block::~Block() = default;

Block& Block::current() {
  if (current_block == nullptr) fault("device code runs outside a kernel");
  return *current_block;
}

bool Block::running() { return current_block != nullptr; }

void Block::run(const std::function<void()>& kernel, dim3 grid, dim3 block, uint3 index, size_t dynamic_bytes,
                RandomBits& random) {
  grid_ = grid;
  size_ = block;
  index_ = index;
  start(kernel, dynamic_bytes);
  struct Restore {
    Block* before = current_block;
    ~Restore() { current_block = before; }
  } restore;
  current_block = this;
  while (ended_ < count_) {
    if (ready_.empty()) stuck();
    std::swap(ready_[random.next() % ready_.size()], ready_.back());
    running_ = ready_.back();
    ready_.pop_back();
    fibers_[running_]->resume();
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }
}

void Block::start(const std::function<void()>& kernel, size_t dynamic_bytes) {
  if (size_.count() == 0 || size_.count() > kMostThreads) fault(fmt::format("a block of {} threads", size_.count()));
  kernel_ = &kernel;
  failure_ = nullptr;
  count_ = static_cast<uint32_t>(size_.count());
  at_barrier_ = 0;
  ended_ = 0;
  epoch_ = 1;
  vote_ = false;
  shared_.reset(dynamic_bytes);
  threads_.assign(count_, {});
  meetings_.fill({});
  ready_.clear();
  while (fibers_.size() < count_) fibers_.push_back(std::make_unique<Fiber>());
  for (uint32_t t = 0; t < count_; t++) {
    threads_[t].index = {t % size_.x, t / size_.x % size_.y, t / size_.x / size_.y};
    threads_[t].seen[t % kWarpSize] = 1;
    fibers_[t]->prepare(enter, this);
    ready_.push_back(t);
  }
}

void Block::enter(void* block) {
  Block& self = *static_cast<Block*>(block);
  const uint32_t thread = self.running_;
  try {
    (*self.kernel_)();
  } catch (...) {
    self.failure_ = std::current_exception();
  }
  self.threads_[thread].state = State::ended;
  self.meetings_[thread / kWarpSize].ended |= 1u << (thread % kWarpSize);
  self.ended_++;
}

void Block::wait() { fibers_[running_]->suspend(); }

bool Block::barrier(const std::source_location& where, bool vote) {
  Thread& thread = threads_[running_];
  thread.state = State::at_barrier;
  thread.where = where;
  vote_ = vote_ || vote;
  if (++at_barrier_ == count_) {
    at_barrier_ = 0;
    voted_ = std::exchange(vote_, false);
    epoch_++;
    for (uint32_t t = 0; t < count_; t++) {
      threads_[t].state = State::ready;
      ready_.push_back(t);
    }
  }
  wait();
  return voted_;
}

uint64_t Block::warp(WarpVerb verb, uint32_t mask, uint64_t value, uint32_t operand,
                     const std::source_location& where) {
  const uint32_t first_lane = running_ / kWarpSize * kWarpSize;
  const uint32_t lanes = std::min(kWarpSize, count_ - first_lane);
  const uint32_t present = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
  Thread& thread = threads_[running_];
  if ((mask >> (running_ - first_lane) & 1) == 0 || (mask & ~present) != 0) {
    fault(fmt::format("{} calls {} with mask {:#x} at {}: the mask must name the caller and no lane that is not there",
                      describe(running_), name_of(verb), mask, place(where)));
  }
  thread.verb = verb;
  thread.mask = mask;
  thread.value = value;
  thread.operand = operand;
  thread.where = where;
  thread.state = State::at_warp;
  if (arrive(first_lane, verb, mask, where)) meet(first_lane, mask);
  wait();
  return thread.result;
}

// Whether all of the mask are there now.
bool Block::arrive(uint32_t first_lane, WarpVerb verb, uint32_t mask, const std::source_location& where) {
  Meeting& meeting = meetings_[first_lane / kWarpSize];
  if (meeting.waiting == 0) meeting = {.ended = meeting.ended, .verb = verb, .mask = mask};
  meeting.alike = meeting.alike && meeting.verb == verb && meeting.mask == mask;
  meeting.waiting |= 1u << (running_ - first_lane);
  if (meeting.alike && (mask & meeting.ended) == 0) return (meeting.waiting & mask) == mask;
  bool all_here = true;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const uint32_t other = first_lane + static_cast<uint32_t>(std::countr_zero(rest));
    const Thread& peer = threads_[other];
    if (peer.state == State::ended) {
      fault(fmt::format("{} names {} in the mask of {} at {}, which has returned", describe(running_), describe(other),
                        name_of(verb), place(where)));
    }
    if (peer.state == State::at_warp && (peer.verb != verb || peer.mask != mask)) {
      fault(fmt::format("{} is at {} with mask {:#x} at {}, {} at {} with mask {:#x} at {}", describe(running_),
                        name_of(verb), mask, place(where), describe(other), name_of(peer.verb), peer.mask,
                        place(peer.where)));
    }
    all_here = all_here && peer.state == State::at_warp;
  }
  return all_here;
}

void Block::meet(uint32_t first_lane, uint32_t mask) {
  const WarpVerb verb = threads_[running_].verb;
  meetings_[first_lane / kWarpSize].waiting &= ~mask;
  uint64_t ballot = 0;
  for (uint32_t lane = 0; verb == WarpVerb::ballot && lane < kWarpSize; lane++) {
    if ((mask >> lane & 1) != 0 && threads_[first_lane + lane].value != 0) ballot |= uint64_t{1} << lane;
  }
  if (verb == WarpVerb::sync) join(first_lane, mask);
  if (verb >= WarpVerb::load_matrices) compute(verb, first_lane);
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(std::countr_zero(rest));
    Thread& thread = threads_[first_lane + lane];
    thread.result = verb == WarpVerb::ballot ? ballot : taken(thread, first_lane, lane);
    thread.state = State::ready;
    ready_.push_back(first_lane + lane);
  }
}

void Block::collective(WarpVerb verb, void* operands, const std::source_location& where) {
  warp(verb, ~0u, reinterpret_cast<uintptr_t>(operands), 0, where);
}

void Block::compute(WarpVerb verb, uint32_t first_lane) const {
  void* lanes[kWarpSize];
  for (uint32_t lane = 0; lane < kWarpSize; lane++) {
    lanes[lane] = reinterpret_cast<void*>(static_cast<uintptr_t>(threads_[first_lane + lane].value));
  }
  compute_collective(verb, lanes);
}

void Block::copy_async(const SharedArray& array, int64_t offset, const void* source, size_t bytes, size_t read) {
  if (read > bytes) fault(fmt::format("{} starts a copy of {} bytes of {}", describe(running_), read, bytes));
  if (reinterpret_cast<uintptr_t>(source) % bytes != 0) fault("a copy of 4, 8 or 16 bytes that is not aligned");
  if (read > 0) check_addressable(source, read);
  shared_.start_copy(array, offset, bytes, access());
  Thread& thread = threads_[running_];
  thread.copies.push_back({&array, offset, source, bytes, read, thread.groups});
}

void Block::wait_for_copies(uint32_t pending) {
  Thread& thread = threads_[running_];
  const auto landed = [&](const AsyncCopy& copy) { return copy.group + pending < thread.groups; };
  for (const AsyncCopy& copy : thread.copies) {
    if (!landed(copy)) continue;
    std::array<std::byte, 16> value{};
    if (copy.read > 0) {
      check_addressable(copy.source, copy.read);
      std::memcpy(value.data(), copy.source, copy.read);
    }
    shared_.land_copy(*copy.array, copy.offset, value.data(), copy.bytes, access());
  }
  std::erase_if(thread.copies, landed);
}

// Each lane learns what the others have seen, and counts one __syncwarp more.
void Block::join(uint32_t first_lane, uint32_t mask) {
  std::array<uint32_t, kWarpSize> all{};
  for (uint32_t lane = 0; lane < kWarpSize; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    const auto& seen = threads_[first_lane + lane].seen;
    for (uint32_t l = 0; l < kWarpSize; l++) all[l] = std::max(all[l], seen[l]);
  }
  for (uint32_t lane = 0; lane < kWarpSize; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    threads_[first_lane + lane].seen = all;
    threads_[first_lane + lane].seen[lane]++;
  }
}

// What a shuffle hands to `lane`.
uint64_t Block::taken(const Thread& thread, uint32_t first_lane, uint32_t lane) const {
  uint32_t source = lane;
  switch (thread.verb) {
    case WarpVerb::shuffle:
      source = thread.operand % kWarpSize;
      break;
    case WarpVerb::shuffle_xor:
      source = (lane ^ thread.operand) % kWarpSize;
      break;
    case WarpVerb::shuffle_down:
      source = lane + thread.operand < kWarpSize ? lane + thread.operand : lane;
      break;
    case WarpVerb::shuffle_up:
      source = lane >= thread.operand ? lane - thread.operand : lane;
      break;
    default:
      break;
  }
  if ((thread.mask >> source & 1) == 0) {
    fault(fmt::format("{} takes the value of lane {}, which is not in the mask {:#x}, at {}",
                      describe(first_lane + lane), source, thread.mask, place(thread.where)));
  }
  return threads_[first_lane + source].value;
}

SharedAccess Block::access() const { return {running_, epoch_, threads_[running_].seen.data()}; }

std::string Block::describe(uint32_t thread) const {
  const uint3& t = threads_[thread].index;
  return fmt::format("thread ({},{},{}) of block ({},{},{})", t.x, t.y, t.z, index_.x, index_.y, index_.z);
}

std::string Block::describe_running() const { return describe(running_); }

// No thread can go on.
void Block::stuck() const {
  std::string what = fmt::format("{} of {} threads of a block have returned and no other can go on", ended_, count_);
  for (const State state : {State::at_barrier, State::at_warp}) {
    for (uint32_t t = 0; t < count_; t++) {
      const Thread& thread = threads_[t];
      if (thread.state != state) continue;
      what += fmt::format("; {} waits at {} at {}", describe(t),
                          state == State::at_barrier ? "__syncthreads" : name_of(thread.verb), place(thread.where));
      break;
    }
  }
  fault(what);
}

}  // namespace spillway::emulation
