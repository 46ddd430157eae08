#include "memory/pending_events.h"

#include "kernels/check.h"

namespace spillway {

Event PendingEvents::promise() {
  std::lock_guard lock(mutex_);
  drop_done_prefix();
  cells_.emplace_back();
  return {this, first_ + cells_.size() - 1};
}

void PendingEvents::fulfil(uint64_t ticket, const Event& inner) {
  {
    std::lock_guard lock(mutex_);
    SPILLWAY_CHECK(ticket >= first_ && ticket - first_ < cells_.size());
    Cell& cell = cells_[ticket - first_];
    SPILLWAY_CHECK(!cell.fulfilled);
    cell = {true, inner};
  }
  changed_.notify_all();
}

bool PendingEvents::done(uint64_t ticket) {
  std::lock_guard lock(mutex_);
  if (ticket < first_) return true;
  const Cell& cell = cells_[ticket - first_];
  return cell.fulfilled && cell.inner.done();
}

void PendingEvents::wait(uint64_t ticket) { submitted(ticket).wait(); }

Event PendingEvents::submitted(uint64_t ticket) {
  Event inner;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ticket < first_ || cells_[ticket - first_].fulfilled; });
    if (ticket < first_) return {};
    inner = cells_[ticket - first_].inner;
  }
  return inner.submitted();
}

void PendingEvents::drop_done_prefix() {
  while (!cells_.empty() && cells_.front().fulfilled && cells_.front().inner.done()) {
    cells_.pop_front();
    ++first_;
  }
}

}  // namespace spillway
