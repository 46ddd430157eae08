#include "kernels/cuda_descriptors.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr uint64_t kWord = sizeof(uint32_t);
// Words that nobody reads, or that are there already, sent all the same so that those on both sides go together.
constexpr uint32_t kLargestGap = 256;
constexpr uint32_t kCompared = 64;  // words at once

}  // namespace

void CudaDescriptors::set_ring(std::byte* ring, uint64_t bytes) {
  ring_ = ring;
  bytes_ = ring == nullptr ? 0 : bytes;
  used_ = 0;
  to_send_.clear();
  there_.assign(bytes_ / kWord, 0);
  known_.assign(bytes_ / kWord, 0);
  failures_ = context_.failures();
}

std::byte* CudaDescriptors::room(CudaDeviceStream& stream, uint64_t bytes) {
  SPILLWAY_CHECK(bytes <= bytes_);
  if (used_ + bytes > bytes_) {
    stream.enqueue_held();
    rewind();
  }
  std::byte* there = ring_ + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return there;
}

// What failed was not written, nor anything after it until the failure was heard of.
void CudaDescriptors::forget() {
  if (failures_ == context_.failures()) return;
  failures_ = context_.failures();
  std::fill(known_.begin(), known_.end(), uint8_t{0});
}

void CudaDescriptors::write(std::byte* place, const void* bytes, uint64_t count) {
  SPILLWAY_CHECK(place >= ring_ && place + count <= ring_ + bytes_ && count % kWord == 0);
  forget();
  const auto first = static_cast<uint32_t>((place - ring_) / kWord);
  const auto words = static_cast<uint32_t>(count / kWord);
  const auto* from = static_cast<const std::byte*>(bytes);
  // Of a long list hardly anything differs.
  for (uint32_t at = 0; at < words; at += kCompared) {
    const uint32_t some = std::min(kCompared, words - at);
    const bool known = std::memchr(known_.data() + first + at, 0, some) == nullptr;
    if (known && std::memcmp(there_.data() + first + at, from + at * kWord, some * kWord) == 0) continue;
    for (uint32_t i = at; i < at + some; i++) write_word(first + i, from + i * kWord);
  }
}

void CudaDescriptors::write_word(uint32_t number, const std::byte* from) {
  uint32_t word;
  std::memcpy(&word, from, kWord);
  if (known_[number] != 0 && there_[number] == word) return;
  known_[number] = 1;
  there_[number] = word;
  to_send_.push_back(number);
}

void CudaDescriptors::send(CudaDeviceStream& stream) {
  if (to_send_.empty()) return;
  if (to_send_.size() <= kCudaMostScattered) {
    send_words(stream);
  } else {
    send_ranges(stream);
  }
  to_send_.clear();
}

void CudaDescriptors::send_words(CudaDeviceStream& stream) {
  scattered_.clear();
  for (const uint32_t i : to_send_) scattered_.push_back({i, there_[i]});
  stream.enqueue("descriptors", context_.table().put_words, static_cast<void*>(ring_),
                 static_cast<const CudaWord*>(scattered_.data()), static_cast<int32_t>(scattered_.size()));
}

void CudaDescriptors::send_ranges(CudaDeviceStream& stream) {
  std::sort(to_send_.begin(), to_send_.end());
  for (size_t begin = 0, end = 0; begin < to_send_.size(); begin = end) {
    const uint32_t first = to_send_[begin];
    uint32_t last = first;
    for (end = begin + 1; end < to_send_.size() && to_send_[end] <= last + kLargestGap; end++) last = to_send_[end];
    stream.enqueue("descriptors", context_.table().put, static_cast<void*>(ring_ + first * kWord),
                   static_cast<const void*>(there_.data() + first), (last - first + 1) * kWord);
  }
}

}  // namespace spillway
