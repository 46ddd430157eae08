// KvFeed: what the runtime sees of the KV cache during a pass: of each sequence of it groups of spans in position
// order, each on the device when it is read. Rows kept on the device are read in place; the others stream through a
// ring, fetched ahead in the order the layers read them, over the end of one pass into the next. It also spills what a
// layer no longer keeps on the device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "memory/kv/cache.h"
#include "memory/lease.h"
#include "prefetch/copy_engine.h"
#include "prefetch/ring_feed.h"

namespace spillway {

// Spans [first_span, first_span + spans.size()) of one layer. Wait for `lease.ready()` before reading; release it
// after.
struct KvGroup {
  std::vector<KvSpan> spans;
  Lease lease;
};

// The smaller of two windows, of which 0 is none.
inline int narrower(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// How a pass reads layers that choose (KvLayout::chooses): by their ChosenFeed, but for what is to be checked.
struct KvReading {
  bool chooses = false;
  int checked_layer = -1;   // this one by this feed too,
  bool checks_all = false;  // or all of them
  bool adds_up = false;     // a prompt: they are read twice, the second time to add up their attention
  int window = 0;           // > 0: every layer has at most so large a one

  bool operator==(const KvReading&) const = default;
};

class KvFeed {
 public:
  // A third of the ring for a group: one is read while the next arrives and the one after is under way.
  static constexpr uint64_t kGroupsInRing = 3;

  // Lanes may be null when every row stays on the device. windows: for each layer, how many positions a query sees, its
  // own among them (0: all); spans that all queries of a pass have passed are not fetched, nor given.
  KvFeed(KvCache& cache, std::span<std::byte> ring, int lookahead, CopyLane* fetch_lane, CopyLane* spill_lane,
         std::vector<int> windows);

  // A pass of `sequences` over all layers follows. May be called ahead, when the pass before has settled its last
  // layer: its first fetches then run while that pass ends.
  void begin_pass(std::span<const SequenceId> sequences, const KvReading& reading);
  // The groups of a sequence in a layer in position order, up to `tokens` positions; each released before the next is
  // taken. Layers in order, and in each the pass's sequences in theirs; where a layer is read twice (KvReading), the
  // groups of a sequence's second reading follow those of its first.
  int groups(int layer, SequenceId sequence) const;
  KvGroup next(int layer, SequenceId sequence, int tokens);
  // Moves what `layer` no longer keeps on the device, after all that `compute` has been given to do so far.
  void settle(int layer, Stream& compute);
  // Forgets fetches planned for a pass that does not come.
  void end();

 private:
  struct PlannedRow {
    int row;
    uint64_t offset;  // in the item's place
  };
  struct PlannedGroup {
    SequenceId sequence = 0;
    int layer = 0;
    int first_span = 0;
    int last_span = 0;  // one past; the layer's last group runs to the end of the context
    std::vector<PlannedRow> rows;
    bool last = false;
    bool again = false;  // of the second reading
  };
  void plan_layer(SequenceId sequence, int layer, bool again);
  // Whether a layer is read elsewhere as well, and here for a check alone.
  bool only_checked(int layer) const { return reading_.chooses && cache_.layout().chooses(layer); }
  int first_span(SequenceId sequence, int layer) const;
  Event start(uint32_t item, std::byte* place, std::vector<Event> after);

  KvCache& cache_;
  CopyLane* fetch_lane_;
  CopyLane* spill_lane_;
  std::vector<int> windows_;
  uint64_t group_bytes_;  // at most, of rows outside the device
  RingFeed feed_;
  std::vector<SequenceId> sequences_;  // of the pass
  KvReading reading_;
  uint64_t version_ = 0;
  std::deque<PlannedGroup> planned_;  // groups not taken yet
  uint32_t first_item_ = 0;           // number of planned_.front()
};

}  // namespace spillway
