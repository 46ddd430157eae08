// ChosenFeed: what the runtime sees of the KV of a layer whose decode step reads chosen granules alone: where each of
// them lies on the device. Granules of rows on the device are read in place; the others lie in the hot set, slots of
// the device that keep what was chosen last, by any sequence, and only what is not there is fetched (ShadowKV, arXiv
// 2410.21465, section 4.2, keeps hits likewise). What is read never depends on what happens to be there.
//
// A step first says what a layer has chosen (fetch), as early as that is known; then, when the layer has room for its
// new token, asks for the places. Layers in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/selection.h"
#include "memory/kv/cache.h"
#include "memory/kv/hot_set.h"
#include "prefetch/copy_engine.h"

namespace spillway {

// Granules that decode steps have read, of those the ones whose rows were on the device, and the ones that were in the
// hot set; the others were fetched.
struct ChosenCounts {
  uint64_t granules = 0;
  uint64_t in_place = 0;
  uint64_t hits = 0;
  uint64_t tokens = 0;       // that steps have attended to, over their choosing layers and KV heads
  uint64_t tokens_seen = 0;  // that they could have

  ChosenCounts& operator+=(const ChosenCounts& other);
  // What was counted since `earlier`.
  ChosenCounts since(const ChosenCounts& earlier) const;
};

struct ChosenFeedParts {
  KvCache& cache;
  std::span<std::byte> hot;  // memory of the slots; empty where all rows stay on the device
  int context = 0;           // positions
  int slots = 0;             // of each layer and KV head; 0 where all rows stay on the device
  int most = 0;              // granules chosen at once, of a KV head
  int ahead = 1;             // layers that have chosen and not attended yet, at most one more
  int batch = 1;             // sequences that choose in one pass
  int sequences = 1;         // whose granules the slots may hold at once
  CopyLane* lane = nullptr;  // null where all rows stay on the device
};

class ChosenFeed {
 public:
  explicit ChosenFeed(const ChosenFeedParts& parts);

  // What the slots of the device take: bytes of a layer's, and of all choosing layers'.
  static uint64_t hot_bytes(const KvLayout& layout, int layer, int slots);
  static uint64_t hot_bytes(const KvLayout& layout, int slots);

  // A sequence, and its number among those that choose in the pass.
  struct Chooser {
    SequenceId sequence = 0;
    int index = 0;
  };
  // The step's choice, ids [kv_heads x count] ascending and kNoGranule behind them, of a sequence of `tokens` positions
  // with the step's own. All that read the layer's slots in an earlier pass has run. Starts the fetches of what is
  // missing, counted as `cause`. A layer may choose once more before it asks for its places; of those the last is read.
  void fetch(const Chooser& who, int layer, std::span<const int32_t> ids, int tokens, Cause cause = Cause::kv_fetch);
  // The places [kv_heads x count] in host memory, to be copied to the device; they may be read after the event.
  Event places(const Chooser& who, int layer, std::span<GranulePlace> table);

  const ChosenCounts& counts() const { return counts_; }

 private:
  static constexpr int32_t kInPlace = -1;
  struct Choice {
    int layer = -1, tokens = 0;
    std::vector<int32_t> ids, slots;  // [kv_heads x count]; kInPlace: its row is on the device
    ChosenCounts counts;
    Event fetched;          // the last fetch
    bool expected = false;  // its places have not been asked for
  };
  struct Missing {
    int32_t granule, head, slot;
  };
  // Of each sequence the granules have numbers of their own in the hot set; the first one.
  int numbers_of(SequenceId sequence);
  Choice& choice(int layer, int index) {
    return choices_[static_cast<size_t>(layer % (p_.ahead + 1) * p_.batch + index)];
  }
  int row_of(int32_t granule) const { return granule * granule_tokens_ / kPageTokens; }
  void look_up(int layer, int head, int first_number, Choice& choice);
  Event bring(const Chooser& who, int layer, Cause cause);
  void pieces_of(const Missing& missing, bool packed, std::byte* slot, std::vector<StretchPiece>& pieces) const;
  void from_disk(const RowPlace& row, PieceMoves& moves);
  std::byte* slot(int layer, int head, int32_t slot, bool packed) const;
  GranulePlace in_row(const RowPlace& row, int head, int32_t granule) const;

  ChosenFeedParts p_;
  KvFormat format_;
  int granule_tokens_;
  HotSet hot_;
  std::vector<uint64_t> hot_offset_;  // of a layer's slots
  std::vector<int> number_;           // of a layer among the choosing ones
  std::vector<Choice> choices_;       // those under way
  std::vector<RowPlace> rows_;        // of the layer in turn
  std::vector<const std::byte*> sidecars_;
  std::vector<Missing> missing_;
  std::vector<Event> after_;                       // of the fetch in turn: fetches to the slots that it fills
  std::vector<int32_t> outside_, slots_, missed_;  // of the head in turn
  std::vector<StretchPiece> pieces_;               // of the row in turn
  struct Known {
    uint64_t generation = 0, used = 0;
  };
  std::vector<Known> known_;  // sequences
  uint64_t clock_ = 0;
  int granules_;  // of a sequence
  ChosenCounts counts_;
};

}  // namespace spillway
