#include "prefetch/weight_feed.h"

#include <vector>

#include "kernels/check.h"

namespace spillway {

WeightFeed::WeightFeed(const WeightHome& home, std::span<std::byte> ring, int lookahead, CopyLane* lane)
    : home_(home),
      lane_(lane),
      feed_(ring, lookahead,
            [this](uint32_t unit, std::byte* place, std::vector<Event> after) {
              return start(unit, place, std::move(after));
            }),
      head_begin_(home.units.size()) {
  while (head_begin_ > 0 && home.units[head_begin_ - 1].stage == Stage::head) --head_begin_;
}

void WeightFeed::plan_pass(int head_sweeps) {
  const auto plan = [&](size_t unit) {
    if (home_.places[unit].tier != Tier::device) feed_.plan(static_cast<uint32_t>(unit), home_.units[unit].bytes);
  };
  feed_.rewind();
  for (size_t unit = 0; unit < head_begin_; ++unit) plan(unit);
  for (int sweep = 0; sweep < head_sweeps; ++sweep) {
    for (size_t unit = head_begin_; unit < home_.units.size(); ++unit) plan(unit);
  }
  planned_sweeps_.push_back(head_sweeps);
}

void WeightFeed::begin_pass(int head_sweeps, int next_head_sweeps) {
  if (!planned_sweeps_.empty() && planned_sweeps_.front() != head_sweeps) end();
  if (planned_sweeps_.empty()) plan_pass(head_sweeps);
  planned_sweeps_.pop_front();
  if (next_head_sweeps != kNoPass) plan_pass(next_head_sweeps);
}

void WeightFeed::end() {
  feed_.drop();
  planned_sweeps_.clear();
}

Event WeightFeed::start(uint32_t index, std::byte* place, std::vector<Event> after) {
  SPILLWAY_CHECK(lane_ != nullptr);
  const WeightUnit& unit = home_.units[index];
  Moves moves;
  if (home_.places[index].tier == Tier::host) {
    moves.link.push_back({place, home_.places[index].data, unit.bytes});
  } else {
    for (const WeightRun& run : unit.runs) {
      moves.disk.push_back({run.extent.file, run.extent.offset, run.extent.bytes, place + run.offset, run.needed});
    }
  }
  return lane_->to_device(std::move(moves), std::move(after), Cause::weights);
}

Lease WeightFeed::acquire(uint32_t unit) {
  const WeightPlace& place = home_.places[unit];
  return place.tier == Tier::device ? Lease(place.data) : feed_.acquire();
}

}  // namespace spillway
