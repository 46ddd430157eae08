// DiskBackend: starts transfers and hands back how each ended. It neither cuts, orders nor retries: that is
// PieceQueue's. One file for each way of reaching the drive: disk_uring.cpp, disk_threads.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace spillway {

struct DiskTransfer {
  uint32_t slot = 0;  // comes back in the completion
  uint32_t file = 0;  // index in the list of descriptors
  bool write = false;
  uint64_t offset = 0;
  uint64_t bytes = 0;  // at most 1 GiB
  std::byte* memory = nullptr;
};

struct DiskCompletion {
  uint32_t slot = 0;
  int64_t result = 0;  // bytes moved, or a negative errno
};

class DiskBackend {
 public:
  DiskBackend();
  virtual ~DiskBackend() = default;
  // kDiskAlign bytes for a trial read. Registered like the rest, so they live as long as the backend.
  std::byte* probe_page() const { return probe_page_.get(); }
  // Does not wait for the drive. Calls are serialised by the caller, who keeps at most the `depth` given at
  // construction in flight.
  virtual void start(std::span<const DiskTransfer> transfers) = 0;
  // Blocks until at least one transfer has ended; called by one thread at a time, only while something is in flight.
  // Runs beside start(). Returns how many were written to the front of `into` (which holds `depth`).
  virtual size_t collect(std::span<DiskCompletion> into) = 0;

 private:
  struct Free {
    void operator()(std::byte* block) const { std::free(block); }
  };
  std::unique_ptr<std::byte, Free> probe_page_;
};

// Null when the kernel refuses, with the reason in `refusal`; what is merely less than wished goes to `notes`.
// `memory` is registered, so that reads and writes there skip the pinning of pages; elsewhere plain transfers are used.
std::unique_ptr<DiskBackend> make_uring_backend(std::span<const int> descriptors,
                                                std::span<const std::span<std::byte>> memory, int depth,
                                                std::string& refusal, std::string& notes);
std::unique_ptr<DiskBackend> make_threads_backend(std::span<const int> descriptors, int depth);

// A named thread on which no signal is delivered: Ctrl-C is for the thread that asked.
std::thread start_disk_thread(const char* name, void (*run)(void*), void* argument);

}  // namespace spillway
