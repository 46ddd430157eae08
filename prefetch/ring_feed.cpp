#include "prefetch/ring_feed.h"

#include <utility>

#include "kernels/check.h"

namespace spillway {

// More steps than any ring holds items: a place's last reader is never forgotten while it matters.
constexpr size_t kReadersKept = 1 << 16;

RingFeed::RingFeed(std::span<std::byte> ring, int lookahead, Start start)
    : ring_(ring), planner_(ring.size(), lookahead), start_(std::move(start)) {}

const Fetch& RingFeed::plan(uint32_t item, uint64_t bytes) {
  planned_.push_back({.fetch = planner_.place(item, bytes, next_step_++)});
  issue();
  return planned_.back().fetch;
}

void RingFeed::issue() {
  while (started_ < planned_.size()) {
    Planned& next = planned_[started_];
    if (next.fetch.issue > passed_) return;
    std::erase_if(landing_, [](const Event& event) { return event.done(); });
    std::vector<Event> after = landing_;
    after.push_back(event_of(next.fetch.after));
    next.ready = start_(next.fetch.item, place(next.fetch), std::move(after));
    next.started = true;
    ++started_;
  }
}

Lease RingFeed::acquire() {
  SPILLWAY_CHECK(!leased_ && started_ > 0);
  Planned front = std::move(planned_.front());
  planned_.pop_front();
  --started_;
  leased_ = true;
  SPILLWAY_CHECK(front.fetch.step == passed_ + 1);
  return Lease(*this, front.fetch.step, place(front.fetch), front.ready);
}

void RingFeed::give_back(uint64_t token, const Event& last_reader) {
  SPILLWAY_CHECK(leased_ && static_cast<int64_t>(token) == passed_ + 1);
  leased_ = false;
  step_over(last_reader);
  issue();
}

void RingFeed::drop() {
  SPILLWAY_CHECK(!leased_);
  // Nobody will read them: in their steps stands the newest reader, which on its one stream follows all readers before.
  const Event newest = readers_.empty() ? Event{} : readers_.back();
  for (const Planned& planned : planned_) {
    if (planned.started) landing_.push_back(planned.ready);
    step_over(newest);
  }
  planned_.clear();
  started_ = 0;
}

void RingFeed::step_over(const Event& last_reader) {
  readers_.push_back(last_reader);
  ++passed_;
  if (readers_.size() > kReadersKept) {
    readers_.pop_front();
    ++first_reader_;
  }
}

Event RingFeed::event_of(int64_t step) const {
  if (step == kNoStep) return {};
  SPILLWAY_CHECK(step >= first_reader_ && step <= passed_);
  return readers_[step - first_reader_];
}

}  // namespace spillway
