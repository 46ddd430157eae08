// CopyEngine: the means by which bytes move between tiers, one lane for each flow so that flows cannot block one
// another. Every operation starts after an event, returns at once with the event of its end, which says what is there
// then (arrival_of), and is counted by link and cause.
//
// Where device memory is plain host memory and no link is emulated, the disk reads and writes it directly. Otherwise
// bytes pass through a staging ring in host memory, piece by piece, and over the link by the lane's copy stream.
//
// What crosses the link alone, and may start after events that the device itself can wait for, goes straight to a copy
// stream of its own: no thread of the host stands between, and the copy engine has its next copy when one ends. A
// stream of its own, for a copy that waits for its place must not hold up bytes from disk that the reader of that
// place still needs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "memory/disk_queue.h"
#include "memory/tier.h"

namespace spillway {

// Bytes [offset, offset + bytes) of one of the disk queue's files, to or from device memory.
struct DiskMove {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::byte* memory = nullptr;
  uint64_t needed = 0;  // leading bytes that must arrive; 0: all
};

// Between host and device memory.
using LinkMove = GatherRun;

struct Moves {
  std::vector<DiskMove> disk;
  std::vector<LinkMove> link;
};

// Pieces of a stretch of one of the disk queue's files: [offset, offset + bytes), aligned for the drive, is read, and
// of it pieces [first, first + pieces) of PieceMoves::pieces go to device memory.
struct DiskStretch {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  size_t first = 0, pieces = 0;
};

// `bytes` of a stretch, `from` its beginning.
struct StretchPiece {
  std::byte* to = nullptr;
  uint64_t from = 0;
  uint64_t bytes = 0;
};

// Many small moves to device memory, from host memory and from the drive.
struct PieceMoves {
  std::vector<LinkMove> link;
  std::vector<DiskStretch> disk;  // each at most a piece of staging
  std::vector<StretchPiece> pieces;
  bool empty() const { return link.empty() && disk.empty(); }
};

struct StagingShape {
  uint64_t piece_bytes = 1 << 20;
  int pieces = 8;
  uint64_t bytes() const { return piece_bytes * pieces; }
};

class CopyLane {
 public:
  // staging: empty where the disk reaches device memory directly, else pieces * piece_bytes of host memory.
  CopyLane(std::string name, Device& device, DiskQueue* disk, Traffic& traffic, std::span<std::byte> staging,
           const StagingShape& shape, double link_bytes_per_second);
  ~CopyLane();
  CopyLane(const CopyLane&) = delete;

  // All moves as one operation, started when all of `after` are done. Operations of a lane start in order.
  Event to_device(Moves moves, std::vector<Event> after, Cause cause);
  Event from_device(Moves moves, std::vector<Event> after, Cause cause);
  // What is read from the drive lands in the staging ring, or, where there is none, in `landing`.
  Event gather(PieceMoves moves, std::vector<Event> after, Cause cause);
  // Device memory of shape.bytes(), for gather() where the disk reaches device memory directly.
  void set_landing(std::span<std::byte> landing, const StagingShape& shape);

  // Waits until everything submitted so far has ended. Lanes whose operations start after one another's are all drained
  // before any of them is destroyed: the events of a lane die with it. Throws nothing: what fails surfaces in the step
  // that needs it.
  void drain();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spillway
