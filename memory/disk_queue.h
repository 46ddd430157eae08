// DiskQueue: many aligned reads and writes in flight, few bytes of CPU. io_uring with registered buffers and files
// where the kernel allows, else the next rung of the ladder, chosen by a probe and reported, never in silence:
//   uring_fixed -> uring -> threads (O_DIRECT pread) -> buffered (pread through the page cache).
//
// Requests are cut into pieces of at most `request_bytes`, and at most `depth` pieces are in flight, and no more than
// `in_flight_bytes` of them, oldest batch first: a drive wants many small reads at once, but only few large ones. Short
// transfers are continued, EINTR and EAGAIN are tried again; any other error fails the batch. Thread-safe: any thread
// may submit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "memory/file.h"

namespace spillway {

enum class DiskMethod : uint8_t { uring_fixed, uring, threads, buffered };
inline constexpr const char* kDiskMethodNames[] = {"io_uring, registered buffers", "io_uring", "threads, O_DIRECT",
                                                   "threads, page cache"};

// One contiguous transfer. Memory, offset and bytes are multiples of kDiskAlign. A read's superset may pass the end of
// the file: then only `needed` bytes must arrive, and what the memory past the end holds is undefined (drives move
// whole blocks). Pages without a needed byte do not move.
struct DiskRequest {
  uint32_t file = 0;  // index in the list given at construction
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::byte* memory = nullptr;
  uint64_t needed = 0;  // of the leading bytes; 0: all
};

struct DiskQueueOptions {
  uint64_t request_bytes = 1 << 20;
  int depth = 64;
  DiskMethod best = DiskMethod::uring_fixed;  // the first rung to try
  uint64_t in_flight_bytes = 8 << 20;         // but always one piece
};

struct DiskStats {
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  double seconds_busy = 0;    // at least one piece was in flight
  double seconds_demand = 0;  // at least one batch was waiting or in flight
};

class DiskQueue : public Timeline {
 public:
  // `files` stay open while the queue lives; `memory` are the arenas that requests point into (registered where
  // possible; a request elsewhere still works); registered pages are pinned, so they stay mapped while the queue lives.
  // Reports the rung taken through method() and why through why().
  static std::unique_ptr<DiskQueue> open(std::vector<const File*> files, std::vector<std::span<std::byte>> memory,
                                         const DiskQueueOptions& options);

  // The batch is done when all its requests are. Tickets of batches are in submission order, but batches may finish in
  // any.
  virtual Event read(std::span<const DiskRequest> requests) = 0;
  virtual Event write(std::span<const DiskRequest> requests) = 0;
  // Throws Error(io) naming file and offset of the first transfer that failed since the last call.
  virtual void check() = 0;
  // Stops handing out new pieces; batches not yet finished count as done. For the end of a run.
  virtual void cancel() = 0;

  virtual DiskMethod method() const = 0;
  virtual std::string why() const = 0;  // empty when the best rung was taken
  virtual DiskStats stats() const = 0;
};

}  // namespace spillway
