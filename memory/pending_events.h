// PendingEvents: events handed out before the operation they stand for has been submitted. A disk read that must first
// wait for its slot has no ticket of its own yet, but its reader wants to queue behind it now.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>

#include "kernels/device.h"

namespace spillway {

class PendingEvents final : public Timeline {
 public:
  // A new event; done once it has been fulfilled with an event that is done.
  Event promise();
  void fulfil(uint64_t ticket, const Event& inner);

  bool done(uint64_t ticket) override;
  void wait(uint64_t ticket) override;
  Event submitted(uint64_t ticket) override;

 private:
  struct Cell {
    bool fulfilled = false;
    Event inner;
  };
  void drop_done_prefix();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Cell> cells_;  // tickets first_ .. first_ + size - 1; all earlier ones are done
  uint64_t first_ = 0;
};

}  // namespace spillway
