#include "tests/support/cuda_emulation/shared_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "tests/support/cuda_emulation/block.h"
#include "tests/support/cuda_emulation/fault.h"

namespace spillway::emulation {
namespace {

constexpr uint16_t kManyWarps = 0xffff;
constexpr uint8_t kGarbage = 0xcb;
constexpr size_t kAlignment = 16;

uint32_t warp_of(uint32_t thread) { return thread / kWarpSize; }

}  // namespace

struct SharedMemory::Word {
  uint32_t write_epoch = 0;  // 0: none
  uint32_t write_clock = 0;
  uint32_t writer = 0;
  uint32_t read_epoch = 0;
  uint32_t read_clock = 0;
  uint32_t read_lanes = 0;
  uint32_t last_reader = 0;
  uint16_t read_warp = 0;
  uint8_t write_bytes = 0;
  uint8_t read_bytes = 0;
  uint8_t known_bytes = 0;   // written at any time in this block
  uint8_t copied_bytes = 0;  // to which an asynchronous copy is under way
};

SharedMemory::SharedMemory() : bytes_(kMostSharedBytes), words_(kMostSharedBytes / 4) {}
SharedMemory::~SharedMemory() = default;

// Dynamic memory lies first, so that its place does not depend on which declaration a thread meets first.
size_t SharedMemory::first_fixed() const { return (dynamic_bytes_ + kAlignment - 1) / kAlignment * kAlignment; }

void SharedMemory::reset(size_t dynamic_bytes) {
  if (dynamic_bytes > kMostSharedBytes) fault(fmt::format("{} bytes of dynamic shared memory", dynamic_bytes));
  const size_t used = (first_fixed() + fixed_bytes_) / 4;
  std::fill_n(words_.begin(), used, Word{});
  std::memset(bytes_.data(), kGarbage, 4 * used);
  fixed_.clear();
  dynamic_.clear();
  fixed_bytes_ = 0;
  dynamic_bytes_ = dynamic_bytes;
}

const SharedArray* SharedMemory::fixed(const void* site, const char* name, const char* kernel, size_t bytes) {
  const auto [found, fresh] = fixed_.try_emplace(site);
  if (fresh) {
    const size_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    found->second = {name, kernel, first_fixed() + fixed_bytes_, bytes};
    fixed_bytes_ += padded;
    if (first_fixed() + fixed_bytes_ > kMostSharedBytes) {
      fixed_bytes_ -= padded;
      fault(fmt::format("{} needs more shared memory than the {} bytes of a block", kernel, kMostSharedBytes));
    }
  }
  return &found->second;
}

const SharedArray* SharedMemory::dynamic(size_t offset, size_t bytes) {
  if (offset + bytes > dynamic_bytes_) {
    fault(fmt::format("bytes [{}, {}) of dynamic shared memory are used, {} were given at launch", offset,
                      offset + bytes, dynamic_bytes_));
  }
  return &dynamic_.try_emplace({offset, bytes}, SharedArray{"dynamic shared memory", "kernel", offset, bytes})
              .first->second;
}

void SharedMemory::check_bounds(const SharedArray& array, int64_t offset, size_t bytes, const char* verb) const {
  if (offset < 0 || offset + bytes > array.bytes) {
    fault(fmt::format("{} in {}: {} at byte {} of an array of {} bytes, by {}", array.name, array.kernel, verb, offset,
                      array.bytes, Block::current().describe_running()));
  }
  if ((array.offset + offset) % bytes != 0) {
    fault(fmt::format("{} in {}: {} of {} bytes at byte {}, which is not aligned", array.name, array.kernel, verb,
                      bytes, offset));
  }
}

void SharedMemory::fault_under_way(const char* verb, const SharedArray& array, size_t offset) const {
  fault(fmt::format("{} in {}: byte {} is {} by {} while a copy to it is under way: nobody has waited for it",
                    array.name, array.kernel, offset, verb, Block::current().describe_running()));
}

void SharedMemory::note_read(Word& word, uint8_t bytes, const SharedArray& array, size_t offset,
                             const SharedAccess& by) {
  const uint32_t lane = by.thread % kWarpSize;
  if ((word.copied_bytes & bytes) != 0) fault_under_way("read", array, offset);
  if ((word.known_bytes & bytes) != bytes) {
    fault(fmt::format("{} in {}: byte {} is read by {} and was never written", array.name, array.kernel, offset,
                      Block::current().describe_running()));
  }
  if (word.write_epoch == by.epoch && word.writer != by.thread && (word.write_bytes & bytes) != 0 &&
      (warp_of(word.writer) != warp_of(by.thread) || by.seen[word.writer % kWarpSize] < word.write_clock)) {
    fault(fmt::format("{} in {}: byte {} is read by {} and was written by thread {} with no barrier between",
                      array.name, array.kernel, offset, Block::current().describe_running(), word.writer));
  }
  const auto warp = static_cast<uint16_t>(warp_of(by.thread));
  if (word.read_epoch != by.epoch) {
    word.read_epoch = by.epoch;
    word.read_clock = 0;
    word.read_lanes = 0;
    word.read_bytes = 0;
    word.read_warp = warp;
  } else if (word.read_warp != warp) {
    word.read_warp = kManyWarps;
  }
  word.read_lanes |= 1u << lane;
  word.read_clock = std::max(word.read_clock, by.seen[lane]);
  word.read_bytes |= bytes;
  word.last_reader = by.thread;
}

void SharedMemory::note_write(Word& word, uint8_t bytes, const SharedArray& array, size_t offset,
                              const SharedAccess& by) {
  const uint32_t lane = by.thread % kWarpSize;
  if ((word.copied_bytes & bytes) != 0) fault_under_way("written", array, offset);
  if (word.write_epoch == by.epoch && word.writer != by.thread && (word.write_bytes & bytes) != 0 &&
      (warp_of(word.writer) != warp_of(by.thread) || by.seen[word.writer % kWarpSize] < word.write_clock)) {
    fault(fmt::format("{} in {}: byte {} is written by {} and by thread {} with no barrier between", array.name,
                      array.kernel, offset, Block::current().describe_running(), word.writer));
  }
  if (word.read_epoch == by.epoch && (word.read_bytes & bytes) != 0) {
    bool ordered = word.read_warp == warp_of(by.thread);
    for (uint32_t others = word.read_lanes & ~(1u << lane); ordered && others != 0; others &= others - 1) {
      ordered = by.seen[std::countr_zero(others)] >= word.read_clock;
    }
    if (!ordered) {
      fault(fmt::format("{} in {}: byte {} is written by {} and was read by thread {} with no barrier between",
                        array.name, array.kernel, offset, Block::current().describe_running(), word.last_reader));
    }
  }
  word.write_epoch = by.epoch;
  word.write_clock = by.seen[lane];
  word.writer = by.thread;
  word.write_bytes = bytes;
  word.known_bytes |= bytes;
  word.read_epoch = 0;
}

void SharedMemory::read(const SharedArray& array, int64_t offset, void* value, size_t bytes, const SharedAccess& by) {
  check_bounds(array, offset, bytes, "read");
  const size_t first = array.offset + static_cast<size_t>(offset);
  for (size_t at = first; at < first + bytes; at = (at / 4 + 1) * 4) {
    const size_t count = std::min(first + bytes, (at / 4 + 1) * 4) - at;
    note_read(words_[at / 4], static_cast<uint8_t>(((1u << count) - 1) << at % 4), array, at - array.offset, by);
  }
  std::memcpy(value, bytes_.data() + first, bytes);
}

void SharedMemory::write(const SharedArray& array, int64_t offset, const void* value, size_t bytes,
                         const SharedAccess& by) {
  check_bounds(array, offset, bytes, "write");
  const size_t first = array.offset + static_cast<size_t>(offset);
  for (size_t at = first; at < first + bytes; at = (at / 4 + 1) * 4) {
    const size_t count = std::min(first + bytes, (at / 4 + 1) * 4) - at;
    note_write(words_[at / 4], static_cast<uint8_t>(((1u << count) - 1) << at % 4), array, at - array.offset, by);
  }
  std::memcpy(bytes_.data() + first, value, bytes);
}

void SharedMemory::start_copy(const SharedArray& array, int64_t offset, size_t bytes, const SharedAccess& by) {
  const std::array<uint8_t, 16> garbage = [] {
    std::array<uint8_t, 16> filled;
    filled.fill(kGarbage);
    return filled;
  }();
  write(array, offset, garbage.data(), bytes, by);
  for (size_t word = (array.offset + offset) / 4; word < (array.offset + offset + bytes) / 4; word++) {
    words_[word].copied_bytes = 0xf;
  }
}

void SharedMemory::land_copy(const SharedArray& array, int64_t offset, const void* value, size_t bytes,
                             const SharedAccess& by) {
  for (size_t word = (array.offset + offset) / 4; word < (array.offset + offset + bytes) / 4; word++) {
    words_[word].copied_bytes = 0;
  }
  write(array, offset, value, bytes, by);
}

}  // namespace spillway::emulation
