#include "runtime/kv_sizes.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

namespace {

// How the pages lie, whatever is read of them.
KvLayout pages_layout(const ModelSpec& spec, const Options& options) {
  if (!packs(options.kv_codec)) return KvLayout(spec.shape, options.kv_codec);
  if (!can_pack(spec.shape.head_dim)) {
    throw Error(ErrorKind::usage,
                fmt::format("--kv-type {}: packed pages take heads of a multiple of 8 elements, this model's have {}",
                            info(options.kv_codec).name, spec.shape.head_dim));
  }
  KvPacked packed;
  for (int layer = 0; layer < spec.shape.layers; ++layer) {
    if (spec.layers[layer].from_end < options.kv_edge_layers) continue;
    if (packed.layers() == 0) packed.first_layer = layer;
    packed.last_layer = layer + 1;
  }
  return KvLayout(spec.shape, options.kv_codec, packed);
}

}  // namespace

KvLayout kv_layout(const ModelSpec& spec, const Options& options) {
  KvLayout layout = pages_layout(spec, options);
  const KvSelection& selection = options.selection;
  if (!selection.on()) return layout;
  check_policy(selection, options.kv_codec);
  layout.chosen = {.layers = choosing_layers(selection, spec),
                   .partial = partial_key_format(selection, spec.shape),
                   .bounds = selection.selector == KvSelector::bounds,
                   .granule_tokens = selection.granule_tokens};
  return layout;
}

KvSaved kv_saved(const Plan& plan) {
  KvSaved all;
  const auto add = [&](const Plan& unit) {
    const KvLayout& layout = unit.kv_layout;
    const int rows = page_rows(unit.context);
    if (layout.format.type() != KvCodec::f16) all.codec = layout.format.type();
    all.packed_layers += layout.packed_layers();
    all.layers += layout.layers;
    all.bytes += layout.bytes(layout.slots_of(rows));
    KvLayout in_halves = layout;
    in_halves.format.dtype = DType::f16;
    all.fp16_bytes += static_cast<uint64_t>(rows) * static_cast<uint64_t>(layout.layers) * in_halves.row_bytes();
  };
  for (const Plan& unit : plan.before) add(unit);
  add(plan);
  return all;
}

KvSlots KvSizes::device_slots(const KvKept& kept, bool spills) const {
  const uint32_t transient = spills ? static_cast<uint32_t>(transient_rows()) : 0;
  const int stay = std::min(rows_per_layer(), staying_rows());
  KvSlots slots;
  for (int layer = 0; layer < layout.layers; ++layer) {
    const int rows = layout.chooses(layer) ? kept.choosing : kept.whole;
    slots.full += static_cast<uint32_t>(layout.packs(layer) ? stay : rows);
    // Of the rows that one sequence fills all are packed but so many; what others leave is not counted on.
    const int unpacked = layout.packed.sink_rows + layout.packed.recent_rows;
    if (layout.packs(layer)) slots.packed += static_cast<uint32_t>(std::max(0, rows - unpacked));
  }
  if (layout.full_layers() > 0) slots.full += transient;
  if (layout.packed_layers() == 0) return slots;
  slots.full += static_cast<uint32_t>(pass_rows());  // what a pass fills in one layer before it is packed
  slots.packed += transient;
  return slots;
}

KvSlots KvSizes::outside_slots(const KvKept& kept) const {
  KvSlots slots;
  for (int layer = 0; layer < layout.layers; ++layer) {
    const auto rows = static_cast<uint32_t>(rows_per_layer() - (layout.chooses(layer) ? kept.choosing : kept.whole));
    (layout.packs(layer) ? slots.packed : slots.full) += rows;
  }
  return slots;
}

KvSlots KvSizes::fitting(const KvSlots& wanted, uint64_t bytes) const {
  KvSlots slots;
  slots.full = static_cast<uint32_t>(std::min<uint64_t>(wanted.full, bytes / layout.row_bytes()));
  if (wanted.packed == 0) return slots;
  bytes -= slots.full * layout.row_bytes();
  slots.packed = static_cast<uint32_t>(std::min<uint64_t>(wanted.packed, bytes / layout.row_bytes(true)));
  return slots;
}

int KvSizes::outside_rows(uint64_t host_bytes, uint64_t disk_bytes) const {
  const auto fits = [&](int rows) {
    const KvSlots all = outside_slots({rows_per_layer() - rows, rows_per_layer() - rows});
    const KvSlots host = fitting(all, host_bytes);
    const KvSlots rest{.full = all.full - host.full, .packed = all.packed - host.packed};
    return fitting(rest, disk_bytes) == rest;
  };
  int least = 0, most = layout.layers == 0 ? 0 : std::max(rows_per_layer() - staying_rows(), 0);
  while (least < most) {
    const int middle = least + (most - least + 1) / 2;
    if (fits(middle)) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least;
}

uint64_t KvSizes::least_ring() const {
  return 2 * static_cast<uint64_t>(std::min(kPagesPerSpan, rows_per_layer())) * largest_row();
}

uint64_t KvSizes::least(uint64_t host_bytes, uint64_t disk_bytes) const {
  const int outside = outside_rows(host_bytes, disk_bytes);
  if (outside == 0) return all();
  const int kept = rows_per_layer() - outside;
  return std::min(all(), least_ring() + beside_bytes + layout.bytes(device_slots({kept, kept}, true)));
}

}  // namespace spillway
