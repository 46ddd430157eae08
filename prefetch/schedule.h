// The schedule: what moves when, into which place of a ring, as a pure list (ARCHITECTURE.md, idea 4). RingFeed carries
// the list out on streams; runtime/simulate plays it in simulated time; the tests prove on it that nothing is
// overwritten before its last reader.
//
// Steps are numbered upwards for ever; a step is one stretch of compute that reads at most one item. Items enter the
// ring in the order of the steps that read them, and each is gone after that one step.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

namespace spillway {

inline constexpr int64_t kNoStep = -1;

struct Fetch {
  uint32_t item = 0;    // what: a weight unit, or a group of KV spans
  uint64_t offset = 0;  // place in the ring
  uint64_t bytes = 0;
  int64_t step = 0;         // the step that reads it
  int64_t after = kNoStep;  // the place is free once this step has run; kNoStep: it was never used
  int64_t issue = kNoStep;  // enqueued once this step has been enqueued; kNoStep: at once. after <= issue < step
};

// Places items into a ring of `ring_bytes`, first in first out, wrapping where an item would pass the end.
class RingPlanner {
 public:
  // lookahead: an item is enqueued at most that many steps before its reader; 0: as soon as its place is free.
  RingPlanner(uint64_t ring_bytes, int lookahead) : ring_bytes_(ring_bytes), lookahead_(lookahead) {}

  // bytes <= ring_bytes; steps strictly rising from call to call.
  Fetch place(uint32_t item, uint64_t bytes, int64_t step);
  // The next item goes to offset 0, so that every pass over the same items uses the same addresses.
  void rewind() { head_ = 0; }
  uint64_t ring_bytes() const { return ring_bytes_; }

 private:
  struct Region {
    uint64_t begin, end;
    int64_t step;
  };
  uint64_t ring_bytes_;
  int lookahead_;
  uint64_t head_ = 0;
  int64_t last_after_ = kNoStep;
  int64_t last_issue_ = kNoStep;
  std::deque<Region> live_;  // oldest first
};

}  // namespace spillway
