// KvSizes: what the KV cache of one unit takes, whatever lies where. A layer keeps the same number of rows on the
// device whether or not its pages are packed; packed ones take fewer bytes in every tier.
#pragma once

#include <cstdint>

#include "loader/model_spec.h"
#include "memory/kv/layout.h"
#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

// Pages are packed in all layers but the model's first and last few (Options::kv_edge_layers). Throws Error(usage)
// where the model's heads cannot be packed.
KvLayout kv_layout(const ModelSpec& spec, const Options& options);

// KV of one full context at rest, over all units that compute, and what it would be in half precision.
struct KvSaved {
  KvCodec codec = KvCodec::f16;
  int packed_layers = 0, layers = 0;
  uint64_t bytes = 0, fp16_bytes = 0;
};
KvSaved kv_saved(const Plan& plan);

// Page rows of a layer that stay on the device: of one that is read whole, and of one whose decode steps choose.
struct KvKept {
  int whole = 0, choosing = 0;
};

struct KvSizes {
  KvLayout layout;
  int sequences = 1;
  int batch = 1;              // of them in one pass
  int context_rows = 0;       // page rows of one layer that the context fills
  int chunk_rows = 0;         // that a chunk of the prompt fills
  uint64_t beside_bytes = 0;  // of the device where rows leave it: the hot set of layers that choose

  // Page rows of one layer: those of the context, and for each further sequence two that are not full of tokens of its
  // own: its last one, and one copied in the middle of a page where it left another sequence; and, where pages are
  // packed, the newest ones of what it shares, which it packs for itself. Whoever lets several share a pass counts
  // whole pages, and lets none leave another in the middle of one (runtime/batch_schedule.h).
  int rows_per_layer() const {
    const int own = 2 + (layout.packed_layers() > 0 ? layout.packed.recent_rows : 0);
    return context_rows + (batch > 1 ? 0 : own * (sequences - 1));
  }
  // Rows that a pass fills, or begins, in one layer: of a chunk, which may begin and end in the middle of a page; where
  // several sequences share it, one more of each, and the tokens that they have beside it.
  int pass_rows() const { return chunk_rows + 1 + (batch > 1 ? batch + page_rows(batch) : 0); }
  // They are there before they can be spilled, twice, so that spilling one layer overlaps the next.
  int transient_rows() const { return 2 * pass_rows(); }
  // Slots of the device with which the layers keep `kept` rows there; spills: the others leave it.
  KvSlots device_slots(const KvKept& kept, bool spills) const;
  // Of the rows that are not kept: those for which `bytes` suffice, full ones first.
  KvSlots outside_slots(const KvKept& kept) const;
  KvSlots fitting(const KvSlots& wanted, uint64_t bytes) const;
  // Rows of each layer that can be outside the device, where host and disk have so much room: not the open ones, nor
  // those that layers that pack leave as they are.
  int outside_rows(uint64_t host_bytes, uint64_t disk_bytes) const;
  // Rows of a layer that stay on the device in any case, in half precision.
  int staying_rows() const { return (layout.packed_layers() > 0 ? layout.packed.unpacked_rows() : 1) * sequences; }
  // All on the device.
  KvKept all_rows() const { return {rows_per_layer(), rows_per_layer()}; }
  uint64_t all() const { return layout.bytes(device_slots(all_rows(), false)); }
  // A group of rows is read while the next arrives.
  uint64_t least_ring() const;
  // Of the device, with its ring, when host and disk have so much room.
  uint64_t least(uint64_t host_bytes, uint64_t disk_bytes) const;
  // Bytes of the larger kind of row that can be outside the device.
  uint64_t largest_row() const { return layout.row_bytes(layout.full_layers() == 0 && layout.packed_layers() > 0); }
};

}  // namespace spillway
