// CudaContext: one device behind the module's table, as its streams, memory and operations share it. Calls go through
// here, so that every thread that makes one uses this device, and what goes wrong is kept until a stream is
// synchronised: the one place where errors of asynchronous work surface.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/module.h"

namespace spillway {

class CudaContext {
 public:
  // Throws Error(io) when the device cannot be used.
  CudaContext(const SpillwayCudaTable& table, int device);

  const SpillwayCudaTable& table() const { return table_; }
  const std::string& device_name() const { return name_; }
  const CudaDeviceInfo& info() const { return info_; }
  // Device memory that the context takes.
  uint64_t taken_bytes() const { return taken_; }

  // Makes the call on this device; false when it failed, or one before it did: what follows a failure is not done.
  template <typename... Parameters, typename... Arguments>
  bool call(const char* what, CudaProblem (*function)(Parameters...), Arguments&&... arguments) {
    if (failed_.load(std::memory_order_acquire)) return false;
    return !note(what, ask(function, std::forward<Arguments>(arguments)...));
  }
  // The same, whatever failed before, with the problem as the result: null when there was none.
  template <typename... Parameters, typename... Arguments>
  CudaProblem ask(CudaProblem (*function)(Parameters...), Arguments&&... arguments) const {
    use();
    return function(std::forward<Arguments>(arguments)...);
  }
  // Keeps the problem, unless one is kept already; whether there was one.
  bool note(const char* what, CudaProblem problem);
  // Throws the first failure since the last time as Error(io), and starts afresh.
  void throw_failure();

  // Host memory is pinned block by block, and a copy stays within one.
  void add_pinned(const std::byte* block, uint64_t bytes);
  void remove_pinned(const std::byte* block);
  // Host memory that could not be pinned: kernels cannot read it.
  void add_pageable(const std::byte* block, uint64_t bytes);
  void remove_pageable(const std::byte* block);
  bool any_pageable() const;
  bool is_pageable(const std::byte* data, uint64_t bytes) const;
  // Bytes from `data` to the end of its block, at most `bytes`.
  uint64_t run_length(const void* data, uint64_t bytes) const;

 private:
  void use() const;

  const SpillwayCudaTable& table_;
  int device_;
  uint64_t number_;  // among all contexts of the process
  std::string name_;
  CudaDeviceInfo info_{};
  uint64_t taken_ = 0;
  std::atomic<bool> failed_{false};
  std::string failure_;  // guarded by mutex_
  struct HostRange {
    const std::byte* begin;
    const std::byte* end;
  };
  std::vector<HostRange> pinned_;    // guarded by mutex_
  std::vector<HostRange> pageable_;  // guarded by mutex_
  mutable std::mutex mutex_;
};

}  // namespace spillway
