// KvCache: every page row of every sequence, in every tier. It knows which bytes are where; it computes nothing and
// moves nothing: it returns the moves to make, and is told when they end.
//
// A page row is kPageTokens positions of one layer, all KV heads. It is open while it fills (always on the device),
// sealed when full. A sealed row of a layer that packs is packed once, on the device, after the pass in which so many
// more have filled as stay as they are (KvPacked): so what a query reads follows from its position and its chunk, and
// from no placement. Rows that are not packed in such a layer (the sinks, the newest, the open row) stay on the device.
// After a cut the newest rows may be packed ones: packing is not undone.
//
// Rows are counted by reference, so that sequences share a prefix. An open row that is shared is copied before it is
// written, and a row that is shared is packed into another one: the others may not have come so far. Used by one
// thread.
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
  bool packed = false;
  uint64_t bytes = 0;
};

struct DeviceCopy {
  std::byte* to;
  const std::byte* from;
  uint64_t bytes;
};

// What an append needs before it may write.
struct KvGrowth {
  std::vector<AppendRun> runs;       // rows count from 0 for the first new token
  std::vector<std::byte*> sidecars;  // of each run's row, where the layer chooses
  std::vector<Event> after;          // the slots' former contents have left
  // Before the append: a shared open row, and its sidecar, become one's own.
  std::vector<DeviceCopy> copies;
};

// Rows to be packed before anything else happens to them.
struct KvPacking {
  std::vector<SealRun> runs;
  std::vector<std::byte*> sidecars;  // of each run's row, where the layer chooses: its pages' heads belong there
  std::vector<Event> after;          // the slots' former contents have left
  std::vector<DeviceCopy> copies;    // of the sidecars of rows that were shared, before their heads are written
};

// A sealed row that leaves the device.
struct Demotion {
  uint32_t row = 0;  // handed back to moved()
  const std::byte* from = nullptr;
  uint32_t from_slot = 0;
  RowPlace to;               // and the bytes there are
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
  // is packed or has left the device, it cannot be written again, and goes as a whole. `last_reader` as for close().
  int truncate(SequenceId sequence, int tokens, const Event& last_reader);

  // Room for tokens [tokens, tokens + count) of one layer, on the device. Throws Error(fit) when every slot of the
  // device is taken.
  KvGrowth grow(SequenceId sequence, int layer, int count);
  // All layers have grown by `count`.
  void advance(SequenceId sequence, int count);
  int tokens(SequenceId sequence) const;

  // The rows of a layer that are to be packed since grow() was last called for it, after the layer has read them, by
  // the stream that writes what grow() makes room for: their old slots are free for it at once. Throws Error(fit) as
  // grow() does.
  KvPacking pack(int layer);

  // Oldest first, the sealed rows of a layer beyond its share of the device: to the host while it has room, then to
  // disk. From now on they are there; each move must be made and reported. `last_reader` of the device's copy: the move
  // itself. Throws Error(fit) when no tier has room.
  std::vector<Demotion> settle(int layer);
  void moved(const Demotion& demotion, const Event& end);

  // Drops the sealed rows of a layer that are not to stay, `stays` in the order of rows, for good: nobody may ask for
  // them again, and the sequence cannot be cut back but to nothing. Returns how many these were.
  int let_go(SequenceId sequence, int layer, const std::vector<bool>& stays, const Event& last_reader);
  // Bytes of the page rows that a sequence has, whatever tier they are in and whoever shares them.
  uint64_t bytes_kept(SequenceId sequence) const;

  int rows(SequenceId sequence, int layer) const;  // with those let go
  RowPlace place(SequenceId sequence, int layer, int row) const;
  // Those of all rows of the layer, in their order; of one let go, nothing.
  void places(SequenceId sequence, int layer, std::vector<RowPlace>& places) const;
  // On the device, whatever tier the row is in; null where the layer does not choose.
  std::byte* sidecar(SequenceId sequence, int layer, int row) const;
  void sidecars(SequenceId sequence, int layer, std::vector<const std::byte*>& sidecars) const;
  // A fetch of a row outside the device ends with `event`; its slot is not reused before.
  void reading(SequenceId sequence, int layer, int row, const Event& event);
  // Changes whenever a row of any sequence changes place.
  uint64_t version() const { return version_; }
  // A number that no other sequence has, nor this one before it was cut back: what was kept of a full page is still its
  // content while the number stays.
  uint64_t generation(SequenceId sequence) const { return state(sequence).generation; }

  const KvLayout& layout() const { return layout_; }
  const KvPools& pools() const { return pools_; }
  uint32_t slots_used(Tier tier) const { return used(tier, false) + used(tier, true); }
  uint64_t bytes_used(Tier tier) const { return layout_.bytes({used(tier, false), used(tier, true)}); }
  uint64_t bytes_peak(Tier tier) const { return peak_[static_cast<int>(tier)]; }  // at most at once so far

 private:
  struct Row {
    uint32_t references = 0;
    int32_t layer = 0;
    bool sealed = false;
    bool packed = false;
    Tier tier = Tier::device;
    uint32_t slot = 0;
    Event written;
    Event last_fetch;
    uint32_t sidecar = 0;  // where its layer chooses
  };
  static constexpr uint32_t kGone = UINT32_MAX;
  struct FreeSlot {
    uint32_t slot;
    Event after;
  };
  struct SequenceState {
    int tokens = 0;
    uint64_t generation = 0;
    std::vector<std::vector<uint32_t>> rows;  // [layer][row]; kGone: let go
    std::vector<int> next_to_pack;            // [layer], a row; those before it will not be
  };

  uint32_t new_row(int layer, bool packed, std::vector<Event>& after);
  using FreeSlots = std::deque<FreeSlot>;
  FreeSlot take_slot(Tier tier, bool packed);
  void free_slot(const Row& row, uint32_t slot, Tier tier, const Event& after);
  FreeSlots& free(Tier tier, bool packed) { return free_[static_cast<int>(tier)][packed ? 1 : 0]; }
  uint32_t used(Tier tier, bool packed) const;
  KvSlots slots(Tier tier) const;
  uint64_t offset_of(Tier tier, bool packed, uint32_t slot) const;
  void seal(uint32_t index);
  void pack(SequenceState& sequence, int layer, KvPacking& packing);
  void pack_row(uint32_t& index, KvPacking& packing);
  // One reference less; without any its slot is free.
  void drop(uint32_t row, const Event& last_reader);
  RowPlace place_of(const Row& row) const;
  int kept_rows(int layer) const {
    return layout_.chooses(layer) ? pools_.choosing_rows_per_layer : pools_.device_rows_per_layer;
  }
  std::byte* sidecar_of(const Row& row) const;
  std::byte* on_device(const Row& row) const { return pools_.device + offset_of(Tier::device, row.packed, row.slot); }
  [[noreturn]] void refuse_growth(const char* what, uint32_t slots) const;
  [[noreturn]] void refuse_rows(bool packed) const;
  SequenceState& state(SequenceId sequence);
  const SequenceState& state(SequenceId sequence) const;

  KvLayout layout_;
  KvPools pools_;
  FreeSlots free_[kTiers][2];   // full, packed
  uint64_t peak_[kTiers] = {};  // bytes
  std::vector<Row> rows_;
  std::vector<uint32_t> unused_rows_;
  std::vector<uint32_t> unused_sidecars_;
  std::vector<std::deque<uint32_t>> sealed_on_device_;  // [layer], oldest first: those that may leave
  std::vector<std::vector<SequenceId>> grown_;          // [layer] that packs, since its last pack()
  std::vector<int> device_rows_;                        // [layer]
  std::map<SequenceId, SequenceState> sequences_;
  SequenceId next_sequence_ = 0;
  uint64_t version_ = 0;
  uint64_t next_generation_ = 1;
};

}  // namespace spillway
