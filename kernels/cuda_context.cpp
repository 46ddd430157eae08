#include "kernels/cuda_context.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {
namespace {

std::atomic<uint64_t> contexts{0};
thread_local uint64_t context_in_use = 0;

}  // namespace

CudaContext::CudaContext(const SpillwayCudaTable& table, int device)
    : table_(table), device_(device), number_(++contexts), name_(fmt::format("cuda:{}", device)) {
  const auto must = [&](CudaProblem problem) {
    if (problem != nullptr) throw Error(ErrorKind::io, fmt::format("{}: cannot be used: {}", name_, problem));
  };
  must(table_.device_info(device, &info_));
  name_ += fmt::format(" {}", info_.name);
  must(table_.open_device(device, &taken_));
  must(ask(table_.use_device, device));
}

void CudaContext::use() const {
  if (context_in_use == number_) return;
  context_in_use = number_;
  table_.use_device(device_);  // it could be used before; if not now, the call that follows says so
}

bool CudaContext::note(const char* what, CudaProblem problem) {
  if (problem == nullptr) return false;
  const std::lock_guard lock(mutex_);
  if (failed_.load(std::memory_order_relaxed)) return true;
  failure_ = fmt::format("{}: {}: {}", name_, what, problem);
  failed_.store(true, std::memory_order_release);
  return true;
}

void CudaContext::throw_failure() {
  if (!failed_.load(std::memory_order_acquire)) return;
  std::string failure;
  {
    const std::lock_guard lock(mutex_);
    failure = std::exchange(failure_, {});
    failed_.store(false, std::memory_order_release);
  }
  throw Error(ErrorKind::io, failure);
}

void CudaContext::add_pinned(const std::byte* block, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  pinned_.push_back({block, block + bytes});
}

void CudaContext::remove_pinned(const std::byte* block) {
  const std::lock_guard lock(mutex_);
  std::erase_if(pinned_, [block](const HostRange& pinned) { return pinned.begin == block; });
}

void CudaContext::add_pageable(const std::byte* block, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  pageable_.push_back({block, block + bytes});
}

void CudaContext::remove_pageable(const std::byte* block) {
  const std::lock_guard lock(mutex_);
  std::erase_if(pageable_, [block](const HostRange& range) { return range.begin == block; });
}

bool CudaContext::any_pageable() const {
  const std::lock_guard lock(mutex_);
  return !pageable_.empty();
}

bool CudaContext::is_pageable(const std::byte* data, uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(pageable_.begin(), pageable_.end(),
                     [&](const HostRange& range) { return data < range.end && data + bytes > range.begin; });
}

uint64_t CudaContext::run_length(const void* data, uint64_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::byte* end = begin + bytes;
  const std::lock_guard lock(mutex_);
  for (const HostRange& pinned : pinned_) {
    if (begin >= pinned.begin && begin < pinned.end) return static_cast<uint64_t>(std::min(end, pinned.end) - begin);
    // Memory that is not pinned ends where a block begins.
    if (begin < pinned.begin && end > pinned.begin) end = pinned.begin;
  }
  return static_cast<uint64_t>(end - begin);
}

}  // namespace spillway
