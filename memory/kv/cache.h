// KvCache: every page row of every sequence, in every tier. It knows which bytes are where; it computes nothing and
// moves nothing: it returns the moves to make, and is told when they end.
//
// A page row is kPageTokens positions of one layer, all KV heads. It is open while it fills (always on the device),
// sealed when full. Rows are counted by reference, so that sequences share a prefix; an open row that is shared is
// copied before it is written. Used by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "kernels/device.h"
#include "memory/kv/layout.h"
#include "memory/tier.h"

namespace spillway {

using SequenceId = int32_t;

// Where a page row is now, readable after `written`.
struct RowPlace {
  Tier tier = Tier::device;
  uint32_t slot = 0;
  std::byte* data = nullptr;  // device and host
  uint64_t file_offset = 0;   // disk
  Event written;
};

// What an append needs before it may write.
struct KvGrowth {
  std::vector<AppendRun> runs;  // rows count from 0 for the first new token
  std::vector<Event> after;     // the slots' former contents have left
  struct Copy {
    std::byte* to;
    const std::byte* from;
    uint64_t bytes;
  };
  std::vector<Copy> copies;  // device to device, before the append: a shared open row becomes one's own
};

// A sealed row that leaves the device.
struct Demotion {
  uint32_t row = 0;  // handed back to moved()
  const std::byte* from = nullptr;
  uint32_t from_slot = 0;
  RowPlace to;
  std::vector<Event> after;  // the target slot's former readers
};

class KvCache {
 public:
  KvCache(const KvLayout& layout, const KvPools& pools);

  SequenceId open();
  // The new sequence has the same tokens; nothing is copied until one of the two writes on.
  SequenceId fork(SequenceId from);
  // `last_reader`: of any of its rows; their slots are free after it.
  void close(SequenceId sequence, const Event& last_reader);

  // Drops all but the leading `tokens` positions, and returns how many are left: where the page of the cut is shared,
  // or has left the device, it cannot be written again, and goes as a whole. `last_reader` as for close().
  int truncate(SequenceId sequence, int tokens, const Event& last_reader);

  // Room for tokens [tokens, tokens + count) of one layer, on the device. Throws Error(fit) when every slot of the
  // device is taken.
  KvGrowth grow(SequenceId sequence, int layer, int count);
  // All layers have grown by `count`.
  void advance(SequenceId sequence, int count);
  int tokens(SequenceId sequence) const;

  // Oldest first, the sealed rows of a layer beyond its share of the device: to the host while it has room, then to
  // disk. From now on they are there; each move must be made and reported. `last_reader` of the device's copy: the move
  // itself. Throws Error(fit) when no tier has room.
  std::vector<Demotion> settle(int layer);
  void moved(const Demotion& demotion, const Event& end);

  int rows(SequenceId sequence, int layer) const;
  RowPlace place(SequenceId sequence, int layer, int row) const;
  // A fetch of a row outside the device ends with `event`; its slot is not reused before.
  void reading(SequenceId sequence, int layer, int row, const Event& event);
  // Changes whenever a row of any sequence changes place.
  uint64_t version() const { return version_; }

  const KvLayout& layout() const { return layout_; }
  const KvPools& pools() const { return pools_; }
  uint32_t slots_used(Tier tier) const;
  uint32_t slots_peak(Tier tier) const { return peak_[static_cast<int>(tier)]; }

 private:
  struct Row {
    uint32_t references = 0;
    int32_t layer = 0;
    bool sealed = false;
    Tier tier = Tier::device;
    uint32_t slot = 0;
    Event written;
    Event last_fetch;
  };
  struct FreeSlot {
    uint32_t slot;
    Event after;
  };
  struct SequenceState {
    int tokens = 0;
    std::vector<std::vector<uint32_t>> rows;  // [layer][row]
  };

  uint32_t new_row(int layer, std::vector<Event>& after);
  FreeSlot take_slot(Tier tier);
  void free_slot(Tier tier, uint32_t slot, const Event& after);
  bool has_slot(Tier tier) const { return !free_[static_cast<int>(tier)].empty(); }
  void seal(uint32_t row);
  // One reference less; without any its slot is free.
  void drop(uint32_t row, const Event& last_reader);
  RowPlace place_of(const Row& row) const;
  std::byte* device_slot(uint32_t slot) const { return pools_.device + slot * layout_.row_bytes(); }
  SequenceState& state(SequenceId sequence);
  const SequenceState& state(SequenceId sequence) const;

  KvLayout layout_;
  KvPools pools_;
  std::deque<FreeSlot> free_[kTiers];
  uint32_t capacity_[kTiers] = {};
  uint32_t peak_[kTiers] = {};
  std::vector<Row> rows_;
  std::vector<uint32_t> unused_rows_;
  std::vector<std::deque<uint32_t>> sealed_on_device_;  // [layer], oldest first
  std::vector<int> device_rows_;                        // [layer]
  std::map<SequenceId, SequenceState> sequences_;
  SequenceId next_sequence_ = 0;
  uint64_t version_ = 0;
};

}  // namespace spillway
