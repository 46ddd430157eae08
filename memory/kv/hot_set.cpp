#include "memory/kv/hot_set.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

HotSet::HotSet(int lists, int granules, int slots)
    : granules_(granules),
      slots_(slots),
      slot_(static_cast<size_t>(lists) * slots),
      ends_(lists),
      place_(static_cast<size_t>(lists) * granules) {
  SPILLWAY_CHECK(slots > 0);
  clear();
}

uint64_t HotSet::bytes(int lists, int granules, int slots) {
  return static_cast<uint64_t>(lists) * (static_cast<uint64_t>(slots) * sizeof(Slot) + sizeof(Ends) +
                                         static_cast<uint64_t>(granules) * sizeof(int32_t));
}

void HotSet::clear() {
  std::fill(place_.begin(), place_.end(), kNone);
  for (size_t i = 0; i < slot_.size(); ++i) {
    const auto slot = static_cast<int32_t>(i % slots_);
    slot_[i] = {kNone, slot - 1, slot + 1 < slots_ ? slot + 1 : kNone};  // slot 0 is the oldest: kNone is before it
  }
  std::fill(ends_.begin(), ends_.end(), Ends{0, slots_ - 1});
}

void HotSet::make_newest(int list, int32_t slot) {
  Ends& ends = ends_[list];
  if (ends.newest == slot) return;
  Slot* all = slots_of(list);
  Slot& one = all[slot];
  (one.older == kNone ? ends.oldest : all[one.older].newer) = one.newer;
  all[one.newer].older = one.older;
  one.older = ends.newest;
  one.newer = kNone;
  all[ends.newest].newer = slot;
  ends.newest = slot;
}

void HotSet::make_oldest(int list, int32_t slot) {
  Ends& ends = ends_[list];
  if (ends.oldest == slot) return;
  Slot* all = slots_of(list);
  Slot& one = all[slot];
  (one.newer == kNone ? ends.newest : all[one.newer].older) = one.older;
  all[one.older].newer = one.newer;
  one.newer = ends.oldest;
  one.older = kNone;
  all[ends.oldest].older = slot;
  ends.oldest = slot;
}

void HotSet::forget(int first, int count) {
  for (int list = 0; list < static_cast<int>(ends_.size()); ++list) {
    int32_t* place = places_of(list);
    for (int granule = first; granule < first + count; ++granule) {
      if (place[granule] == kNone) continue;
      slots_of(list)[place[granule]].granule = kNone;
      make_oldest(list, place[granule]);
      place[granule] = kNone;
    }
  }
}

void HotSet::choose(int list, std::span<const int32_t> granules, std::span<int32_t> places,
                    std::vector<int32_t>& missed) {
  SPILLWAY_CHECK(granules.size() <= static_cast<size_t>(slots_) && granules.size() == places.size());
  Slot* all = slots_of(list);
  int32_t* place = places_of(list);
  // Those that are here become the newest first, so that none of them gives way to another.
  for (size_t i = 0; i < granules.size(); ++i) {
    places[i] = place[granules[i]];
    if (places[i] != kNone) make_newest(list, places[i]);
  }
  for (size_t i = 0; i < granules.size(); ++i) {
    if (places[i] != kNone) continue;
    const int32_t slot = ends_[list].oldest;
    if (all[slot].granule != kNone) place[all[slot].granule] = kNone;
    all[slot].granule = granules[i];
    place[granules[i]] = places[i] = slot;
    make_newest(list, slot);
    missed.push_back(static_cast<int32_t>(i));
  }
}

}  // namespace spillway
