#include "tests/support/plan_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>

#include "memory/kv/layout.h"

namespace spillway {

void check_units(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan) {
  ASSERT_EQ(plan.unit_tiers.size(), plan.units.size());
  std::map<std::array<int, 3>, int64_t> next_row;
  for (const WeightUnit& unit : plan.units) {
    uint64_t weight_bytes = 0;
    ASSERT_EQ(unit.bytes % kDiskAlign, 0u);
    for (const WeightSlice& slice : unit.slices) {
      int64_t& next = next_row[{unit.layer, static_cast<int>(unit.stage), slice.matrix}];
      ASSERT_EQ(slice.first_row, next);
      next += slice.rows;
      weight_bytes += static_cast<uint64_t>(slice.rows) * row_bytes(slice.dtype, slice.cols);
      ASSERT_LE(slice.offset + slice.rows * row_bytes(slice.dtype, slice.cols), unit.bytes);
    }
    ASSERT_EQ(unit.weight_bytes, weight_bytes);
    uint64_t end = 0;
    for (const WeightRun& run : unit.runs) {
      ASSERT_EQ(run.offset, end) << "runs lie one after the other";
      ASSERT_EQ(run.extent.offset % kDiskAlign, 0u);
      ASSERT_LE(run.extent.offset + run.needed, checkpoint.files[run.extent.file].bytes());
      end = run.offset + run.extent.bytes;
    }
    ASSERT_EQ(end, unit.bytes);
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerTensors& layer = spec.layers[i];
    const auto rows = [&](Stage stage, int matrix) {
      return next_row[{static_cast<int>(i), static_cast<int>(stage), matrix}];
    };
    ASSERT_EQ(rows(Stage::qkv, 0), layer.q.rows);
    ASSERT_EQ(rows(Stage::qkv, 1), layer.k.rows);
    ASSERT_EQ(rows(Stage::qkv, 2), layer.v.rows);
    ASSERT_EQ(rows(Stage::attn_out, 0), layer.attn_out.rows);
    ASSERT_EQ(rows(Stage::gate_up, 0), layer.gate.rows);
    ASSERT_EQ(rows(Stage::gate_up, 1), layer.up.rows);
    ASSERT_EQ(rows(Stage::down, 0), layer.down.rows);
  }
  ASSERT_EQ((next_row[{0, static_cast<int>(Stage::head), 0}]), spec.output.rows);
}

void check_kv(const ModelSpec& spec, const Options& options, const Plan& plan) {
  const auto full_layers = static_cast<uint64_t>(plan.kv_layout.full_layers());
  const auto packed_layers = static_cast<uint64_t>(plan.kv_layout.packed_layers());
  ASSERT_EQ(full_layers + packed_layers, static_cast<uint64_t>(spec.shape.layers));
  ASSERT_EQ(packed_layers, packs(options.kv_codec)
                               ? static_cast<uint64_t>(std::max(0, spec.shape.layers - 2 * options.kv_edge_layers))
                               : 0u);
  // Elements of 4 bytes in place of 2; rows are padded to what a disk transfers.
  const uint64_t element = options.kv_codec == KvCodec::f32 ? 4 : 2;
  ASSERT_EQ(plan.kv_layout.row_bytes(), align_up(element * 2 * kPageTokens * spec.shape.kv_width(), kDiskAlign));
  ASSERT_GE(plan.context, std::max(options.context, 1));
  ASSERT_LT(plan.context, std::max(options.context, 1) + kPageTokens);
  const bool kivi = options.kv_codec == KvCodec::kivi4 || options.kv_codec == KvCodec::kivi2;
  const uint64_t newest = kivi ? 2 : 0;                       // full rows of a sequence that are not packed yet
  const uint64_t own = 2 + (packed_layers > 0 ? newest : 0);  // of each further sequence
  const uint64_t rows = page_rows(plan.context) + (options.batch > 1 ? 0 : own * (options.sequences - 1));
  uint64_t kept_full = 0, kept_packed = 0, kept_least = rows;  // rows on the device: of all layers, and of any
  for (int layer = 0; layer < spec.shape.layers; ++layer) {
    const uint64_t kept =
        plan.kv_layout.chooses(layer) ? plan.kv_choosing_rows_per_layer : plan.kv_device_rows_per_layer;
    ASSERT_LE(kept, rows);
    kept_least = std::min(kept_least, kept);
    (plan.kv_layout.packs(layer) ? kept_packed : kept_full) += kept;
  }
  ASSERT_GE(kept_least, std::min<uint64_t>(rows, options.sequences)) << "open rows never leave the device";
  // A layer's rows beyond its share are outside, and there is a place for each of them.
  ASSERT_GE(plan.kv_host_slots.full + plan.kv_disk_slots.full, rows * full_layers - kept_full);
  ASSERT_GE(plan.kv_host_slots.packed + plan.kv_disk_slots.packed, rows * packed_layers - kept_packed);
  const KvSlots device = plan.kv_device_slots;
  // In the middle of pages; and beside the chunk a token of each sequence that shares the pass.
  const uint64_t written =
      page_rows(plan.chunk) + 1 + (options.batch > 1 ? options.batch + page_rows(options.batch) : 0);
  // In layers that pack, the sinks, the newest and the open row of every sequence, and what a chunk fills before it is
  // packed.
  const uint64_t stay =
      packed_layers == 0 ? 0 : packed_layers * std::min<uint64_t>(rows, (2 + newest) * options.sequences) + written;
  if (plan.spills_kv()) {
    ASSERT_GE(device.full, kept_full + stay + (full_layers > 0 ? written : 0))
        << "a chunk is written before it is spilled";
    if (packed_layers > 0) {
      ASSERT_GE(kept_least, std::min<uint64_t>(rows, (2 + newest) * options.sequences))
          << "neither sinks nor the newest leave the device";
      ASSERT_GE(device.packed + (1 + newest) * packed_layers, kept_packed + written);
    }
    ASSERT_GE(plan.kv_ring_bytes,
              2 * std::min<uint64_t>(kPagesPerSpan, rows) * plan.kv_layout.row_bytes(full_layers == 0))
        << "a span is read, the next arrives";
  } else {
    ASSERT_EQ(device.full, rows * full_layers + stay);
    ASSERT_EQ(device.packed, (rows - std::min<uint64_t>(rows, 1 + newest)) * packed_layers);
    ASSERT_EQ(plan.kv_ring_bytes, 0u);
  }
}

void check_tiers(const Options& options, const Plan& plan) {
  uint64_t weights[kTiers] = {plan.small_bytes, 0, 0}, largest_streamed = 0;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    weights[static_cast<int>(plan.unit_tiers[i])] += plan.units[i].bytes;
    if (plan.unit_tiers[i] != Tier::device) largest_streamed = std::max(largest_streamed, plan.units[i].bytes);
  }
  for (int t = 0; t < kTiers; ++t) ASSERT_EQ(plan.tiers[t].weights, weights[t]);
  const TierPlan &device = plan.tier(Tier::device), &host = plan.tier(Tier::host), &disk = plan.tier(Tier::disk);
  ASSERT_EQ(device.kv, plan.kv_layout.bytes(plan.kv_device_slots));
  ASSERT_EQ(host.kv, plan.kv_layout.bytes(plan.kv_host_slots));
  ASSERT_EQ(disk.kv, plan.kv_layout.bytes(plan.kv_disk_slots));
  ASSERT_EQ(device.rings, plan.weight_ring_bytes + plan.kv_ring_bytes);
  ASSERT_EQ(device.budget, *options.device_bytes);
  ASSERT_LE(device.total(), *options.device_bytes);
  ASSERT_LE(host.total(), options.host_bytes.value_or(0));
  ASSERT_LE(disk.kv, options.disk_bytes);
  ASSERT_EQ(host.rings, plan.staged ? 3 * plan.staging.bytes() : 0);
  // One unit is read while the next arrives.
  ASSERT_GE(plan.weight_ring_bytes, 2 * largest_streamed);
  if (largest_streamed == 0) {
    ASSERT_EQ(plan.weight_ring_bytes, 0u);
  }
}

}  // namespace spillway
