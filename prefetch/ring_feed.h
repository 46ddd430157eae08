// RingFeed: carries out a RingPlanner's schedule on streams. Items are planned ahead, fetched into the ring as places
// become free, and leased one by one to the steps that read them. Used by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "memory/lease.h"
#include "prefetch/schedule.h"

namespace spillway {

class RingFeed final : public LeaseOwner {
 public:
  // Starts the fetch of `item` into `place`, not before all of `after`; returns the event of its arrival.
  using Start = std::function<Event(uint32_t item, std::byte* place, std::vector<Event> after)>;

  RingFeed(std::span<std::byte> ring, int lookahead, Start start);

  // Queues an item behind those planned before; it is fetched as soon as the schedule allows.
  const Fetch& plan(uint32_t item, uint64_t bytes);
  void rewind() { planner_.rewind(); }
  // The oldest planned item not yet leased; the lease before it must have been released. All readers are on one stream.
  Lease acquire();
  void give_back(uint64_t token, const Event& last_reader) override;
  // Forgets what is planned and not leased. Fetches under way land in the ring and are ignored.
  void drop();
  bool idle() const { return planned_.empty(); }
  std::byte* place(const Fetch& fetch) const { return ring_.data() + fetch.offset; }

 private:
  struct Planned {
    Fetch fetch;
    bool started = false;
    Event ready;
  };
  void issue();
  void step_over(const Event& last_reader);
  Event event_of(int64_t step) const;

  std::span<std::byte> ring_;
  RingPlanner planner_;
  Start start_;
  std::deque<Planned> planned_;  // not leased yet, oldest first
  size_t started_ = 0;           // of planned_, from the front
  std::deque<Event> readers_;    // last readers of steps first_reader_ ... passed_
  std::vector<Event> landing_;   // dropped fetches still under way: their places are known to nobody else
  int64_t first_reader_ = 0;
  int64_t next_step_ = 0;     // to be planned
  int64_t passed_ = kNoStep;  // the newest step whose last reader is known
  bool leased_ = false;
};

}  // namespace spillway
