// HotSet: which granules of KV are in the device's slots, of each list (one for each layer and KV head). The least
// recently chosen ones give way. Computes nothing and moves nothing. Used by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace spillway {

class HotSet {
 public:
  // granules: numbered from 0, of all sequences; slots: of each list.
  HotSet(int lists, int granules, int slots);

  int slots() const { return slots_; }
  // The slots of `granules`, all different and at most slots() of them, into `places`; those that had none take the
  // slots of the least recently chosen others, and their indices in `granules` go to the end of `missed`. Of one call
  // the last is the most recent.
  void choose(int list, std::span<const int32_t> granules, std::span<int32_t> places, std::vector<int32_t>& missed);
  // Forgets everything.
  void clear();
  // Forgets granules [first, first + count) of all lists; their slots give way before all others.
  void forget(int first, int count);

  // Of its memory.
  static uint64_t bytes(int lists, int granules, int slots);

 private:
  static constexpr int32_t kNone = -1;
  struct Slot {
    int32_t granule;
    int32_t older, newer;  // neighbours in the order of giving way
  };
  struct Ends {
    int32_t oldest, newest;
  };
  Slot* slots_of(int list) { return slot_.data() + static_cast<int64_t>(list) * slots_; }
  int32_t* places_of(int list) { return place_.data() + static_cast<int64_t>(list) * granules_; }
  void make_newest(int list, int32_t slot);
  void make_oldest(int list, int32_t slot);

  int granules_, slots_;
  std::vector<Slot> slot_;      // [lists][slots]
  std::vector<Ends> ends_;      // [lists]
  std::vector<int32_t> place_;  // [lists][granules]: its slot, or kNone
};

}  // namespace spillway
