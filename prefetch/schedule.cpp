#include "prefetch/schedule.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

Fetch RingPlanner::place(uint32_t item, uint64_t bytes, int64_t step) {
  SPILLWAY_CHECK(bytes <= ring_bytes_);
  SPILLWAY_CHECK(live_.empty() || live_.back().step < step);
  if (head_ + bytes > ring_bytes_) head_ = 0;
  Fetch fetch{.item = item, .offset = head_, .bytes = bytes, .step = step};

  const uint64_t end = head_ + bytes;
  const auto overlaps = [&](const Region& region) { return region.begin < end && head_ < region.end; };
  auto keep = live_.begin();  // after the youngest region that overlaps
  for (auto it = live_.begin(); it != live_.end(); ++it) {
    if (!overlaps(*it)) continue;
    fetch.after = it->step;
    keep = it + 1;
  }
  if (keep != live_.begin()) live_.erase(live_.begin(), keep);
  live_.push_back({head_, end, step});
  head_ = end;

  // What was erased with a region that is only partly covered is remembered here: places are freed in order.
  fetch.after = last_after_ = std::max(fetch.after, last_after_);
  // Fetches are enqueued in order, so none may be enqueued before its predecessor.
  fetch.issue = std::max(fetch.after, last_issue_);
  if (lookahead_ > 0) fetch.issue = std::max(fetch.issue, step - 1 - lookahead_);
  last_issue_ = fetch.issue;
  SPILLWAY_CHECK(fetch.issue < step);
  return fetch;
}

}  // namespace spillway
