// KvLayout and KvPools: how the KV cache is cut, and what each tier holds of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kv_span.h"
#include "kernels/selection.h"
#include "kernels/shape.h"
#include "memory/extent.h"

namespace spillway {

// Page rows by the bytes they take: as they were written, or packed by a codec (kernels/kv_page.h).
struct KvSlots {
  uint32_t full = 0;
  uint32_t packed = 0;

  bool operator==(const KvSlots&) const = default;
  uint32_t rows() const { return full + packed; }
};

// Layers whose full pages are packed, and which of their rows stay as they are: for good the first ones, whose tokens
// every query looks at (attention sinks, arXiv 2309.17453), and for a while the newest full ones, on which much of the
// attention falls (newest_rows()).
struct KvPacked {
  int first_layer = 0, last_layer = 0;  // one past
  int sink_rows = 1;
  int recent_rows = 0;

  bool operator==(const KvPacked&) const = default;
  int layers() const { return last_layer - first_layer; }
  // Rows of a sequence that are not packed at most, with the open one.
  int unpacked_rows() const { return sink_rows + recent_rows + 1; }
};

// Layers of which a decode step reads chosen granules alone. Their rows have a sidecar that is on the device whatever
// tier the row is in: the row's partial keys, or the bounds of its keys, by which it chooses, and, where rows are
// packed, the heads of its pages (their keys' scales), without which no granule can be read.
struct KvChosen {
  std::vector<bool> layers;  // of each whether it is one of them; empty: none is
  PartialKeyFormat partial;  // of no rank: there are none
  bool bounds = false;       // in their place
  int granule_tokens = kGranuleTokens;

  bool operator==(const KvChosen&) const = default;
};

// KIVI's residual is 128 tokens (arXiv 2402.02750, section 4.1); FlexGen packs all, and 8 bits need none.
constexpr int newest_rows(KvCodec codec) { return info(codec).keys_per_channel ? 2 : 0; }

struct KvLayout {
  KvFormat format;  // with the codec of packed rows
  int layers = 0;
  KvPacked packed;  // no layers where the codec packs nothing
  KvChosen chosen;

  KvLayout() = default;
  explicit KvLayout(const ModelShape& shape, KvCodec codec = KvCodec::f16, const KvPacked& packed_layers = {})
      : format{.dtype = codec == KvCodec::f32 ? DType::f32 : DType::f16,
               .kv_heads = shape.kv_heads,
               .head_dim = shape.head_dim},
        layers(shape.layers) {
    if (!spillway::packs(codec) || packed_layers.layers() <= 0) return;
    format.codec = codec;
    packed = packed_layers;
    packed.recent_rows = newest_rows(codec);
  }

  bool operator==(const KvLayout&) const = default;
  bool packs(int layer) const { return layer >= packed.first_layer && layer < packed.last_layer; }
  int packed_layers() const { return packed.layers(); }
  int full_layers() const { return layers - packed.layers(); }
  bool chooses(int layer) const { return !chosen.layers.empty() && chosen.layers[static_cast<size_t>(layer)]; }
  int choosing_layers() const { return static_cast<int>(std::count(chosen.layers.begin(), chosen.layers.end(), true)); }
  KeyBoundsFormat bounds() const { return {format.kv_heads, format.head_dim, chosen.granule_tokens}; }
  // Of a page row's sidecar; the heads of its pages follow its partial keys, or bounds.
  uint64_t partial_bytes() const {
    if (choosing_layers() == 0) return 0;
    return align_up(chosen.bounds              ? bounds().row_bytes()
                    : chosen.partial.rank == 0 ? 0
                                               : chosen.partial.row_bytes(),
                    16);
  }
  uint64_t heads_bytes() const {
    return choosing_layers() == 0 ? 0 : static_cast<uint64_t>(format.kv_heads) * format.packed_page().header_bytes;
  }
  uint64_t sidecar_bytes() const { return align_up(partial_bytes() + heads_bytes(), 64); }
  // Of a granule of one KV head as it crosses a link, and lies in the device's hot set: keys and values side by side.
  uint64_t granule_bytes(bool is_packed) const {
    return is_packed ? static_cast<uint64_t>(format.packed_page().granule_bytes)
                     : 2 * static_cast<uint64_t>(chosen.granule_tokens) * format.token_bytes();
  }
  // Of one layer: the codec only where its pages are packed.
  KvFormat format_of(int layer) const {
    KvFormat own = format;
    if (!packs(layer)) own.codec = KvCodec::f16;
    return own;
  }
  // Bytes of one page row, padded so that any row is one aligned disk transfer.
  uint64_t row_bytes(bool is_packed = false) const {
    return align_up(is_packed ? format.packed_row_bytes() : format.row_of_pages_bytes(), kDiskAlign);
  }
  // What `rows` rows of every layer are, the last of them open.
  KvSlots slots_of(int rows) const {
    const auto all = static_cast<uint32_t>(rows);
    const uint32_t stay = std::min(all, static_cast<uint32_t>(packed.unpacked_rows()));
    return {.full = all * full_layers() + stay * packed_layers(), .packed = (all - stay) * packed_layers()};
  }
  uint64_t bytes(const KvSlots& slots) const { return slots.full * row_bytes() + slots.packed * row_bytes(true); }
};

// Rows of pages for `tokens` positions of one layer.
constexpr int page_rows(int64_t tokens) { return static_cast<int>((tokens + kPageTokens - 1) / kPageTokens); }

// Each tier's slots for page rows. A layer keeps at most `device_rows_per_layer` rows on the device between passes, one
// that chooses `choosing_rows_per_layer`; the slots beyond those take what a pass writes before it is packed or
// spilled. In each tier the slots of packed rows follow those of full ones.
struct KvPools {
  KvSlots device_slots, host_slots, disk_slots;
  int device_rows_per_layer = 0;
  std::byte* device = nullptr;
  std::byte* host = nullptr;
  uint32_t file = 0;         // the disk queue's number of the spill file
  uint64_t file_offset = 0;  // of the disk's slots in it
  int choosing_rows_per_layer = 0;
  std::byte* sidecars = nullptr;  // of the rows of layers that choose: KvLayout::sidecar_bytes() each
  uint32_t sidecar_count = 0;
};

}  // namespace spillway
