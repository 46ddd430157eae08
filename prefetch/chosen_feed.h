// ChosenFeed: what the runtime sees of the KV of a layer whose decode step reads chosen granules alone: where each of
// them lies on the device. Granules of rows on the device are read in place; the others lie in the hot set, slots of
// the device that keep what was chosen last, and only what is not there is fetched (ShadowKV, arXiv 2410.21465, section
// 4.2, keeps hits likewise). What is read never depends on what happens to be there.
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
  CopyLane* lane = nullptr;  // null where all rows stay on the device
};

class ChosenFeed {
 public:
  explicit ChosenFeed(const ChosenFeedParts& parts);

  // What the slots of the device take: bytes of a layer's, and of all choosing layers'.
  static uint64_t hot_bytes(const KvLayout& layout, int layer, int slots);
  static uint64_t hot_bytes(const KvLayout& layout, int slots);

  // The step's choice, ids [kv_heads x count] ascending, of a sequence of `tokens` positions with the step's own. All
  // that read the layer's slots before has run. Starts the fetches of what is missing.
  void fetch(SequenceId sequence, int layer, std::span<const int32_t> ids, int tokens);
  // The places [kv_heads x count] in host memory, to be copied to the device; they may be read after the event.
  Event places(SequenceId sequence, int layer, std::span<GranulePlace> table);

  const ChosenCounts& counts() const { return counts_; }

 private:
  static constexpr int32_t kInPlace = -1;
  struct Choice {
    int layer = -1, tokens = 0;
    std::vector<int32_t> ids, slots;  // [kv_heads x count]; kInPlace: its row is on the device
  };
  struct Missing {
    int32_t granule, head, slot;
  };
  Choice& choice(int layer) { return choices_[static_cast<size_t>(layer) % choices_.size()]; }
  int row_of(int32_t granule) const { return granule * granule_tokens_ / kPageTokens; }
  void look_up(int layer, int head, Choice& choice);
  Event bring(SequenceId sequence, int layer);
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
  std::vector<Event> fetched_;        // the last fetch of a layer
  std::vector<Choice> choices_;       // those under way
  std::vector<RowPlace> rows_;        // of the layer in turn
  std::vector<const std::byte*> sidecars_;
  std::vector<Missing> missing_;
  std::vector<int32_t> outside_, slots_, missed_;  // of the head in turn
  std::vector<StretchPiece> pieces_;               // of the row in turn
  uint64_t generation_ = 0;
  ChosenCounts counts_;
};

}  // namespace spillway
