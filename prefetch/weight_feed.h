// WeightFeed: what the runtime sees of the weights: acquire a unit, read it, release it. Units that are not resident
// stream through a ring, fetched ahead in the order a pass reads them, over the end of one pass into the next.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "memory/lease.h"
#include "memory/weight_home.h"
#include "prefetch/copy_engine.h"
#include "prefetch/ring_feed.h"

namespace spillway {

class WeightFeed {
 public:
  // lookahead: streamed units fetched ahead of the one in use; 0: as many as the ring holds.
  WeightFeed(const WeightHome& home, std::span<std::byte> ring, int lookahead, CopyLane* lane);

  // A pass follows that reads every layer's units once and the head's units `head_sweeps` times. `next_head_sweeps`:
  // the same of the pass expected after it, whose first units are then fetched while this one ends; kNoPass: none is
  // expected.
  static constexpr int kNoPass = -1;
  void begin_pass(int head_sweeps, int next_head_sweeps);
  // Units in the order of the pass; each released before the next is acquired.
  Lease acquire(uint32_t unit);
  // No further pass: forgets what was fetched ahead.
  void end();

 private:
  void plan_pass(int head_sweeps);
  Event start(uint32_t unit, std::byte* place, std::vector<Event> after);

  const WeightHome& home_;
  CopyLane* lane_;
  RingFeed feed_;
  size_t head_begin_;               // the first of the head's units; they come last
  std::deque<int> planned_sweeps_;  // of the passes planned and not begun
};

}  // namespace spillway
