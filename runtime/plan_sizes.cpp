#include "runtime/plan_sizes.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/check.h"
#include "runtime/planner.h"
#include "runtime/selection_workspace.h"
#include "runtime/vectors.h"
#include "runtime/weight_units.h"
#include "runtime/workspace.h"

namespace spillway {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kLeastUnit = 512 * kKiB;    // smaller ones leave the drive idle between requests
constexpr uint64_t kLeastPiece = 256 * kKiB;   // of staging
constexpr uint64_t kLeastLanding = 64 * kKiB;  // a piece, of granules from disk
constexpr int kLandingPieces = 4;
constexpr int64_t kMostPositions = 1ll << 30;  // that an int counts, with pages to spare

// Units small enough that a ring of several is a small part of the budget, large enough for the drive to run at full
// speed.
uint64_t ample_unit(uint64_t device_budget) { return std::clamp(device_budget / 64, kLeastUnit, 8 * kMiB); }
// All staging together a sixteenth of the host's.
uint64_t ample_piece(uint64_t host_budget) {
  return std::clamp(align_down(host_budget / (16 * 3 * StagingShape{}.pieces), kLeastPiece), kLeastPiece, kMiB);
}

}  // namespace

PlanSizes::PlanSizes(const PlanInput& input, Room room, int rows, double hot_slots)
    : PlanSizes(input, room, std::nullopt, rows, hot_slots) {}
PlanSizes::PlanSizes(const PlanInput& input, const PlannedSizes& planned)
    : PlanSizes(input, Room::ample, std::optional(planned), planned.logit_rows, 1) {}

PlanSizes::PlanSizes(const PlanInput& input, Room room, const std::optional<PlannedSizes>& planned, int most_rows,
                     double hot_slots)
    : kv{.layout = kv_layout(input.spec, input.options),
         .sequences = input.options.sequences,
         .batch = input.options.batch},
      in_(input),
      room_(room),
      planned_(planned),
      most_rows_(most_rows),
      hot_slots_(hot_slots),
      choosing_(kv.layout.chosen) {
  const Options& options = in_.options;
  // Layers that pack have slots of both kinds.
  const int64_t layers = std::max(kv.layout.layers + kv.layout.packed_layers(), 1);
  int64_t most = std::min(kMostPositions, int64_t{UINT32_MAX} / layers * kPageTokens);
  // Choosing counts the granules of all sequences.
  if (options.selection.on()) {
    most = std::min(most, int64_t{INT32_MAX} / options.sequences * options.selection.granule_tokens - kPageTokens);
  }
  if (options.context > most) {
    throw Error(ErrorKind::usage,
                fmt::format("-c {}: this model's KV is counted up to {} positions", options.context, most));
  }
  SPILLWAY_CHECK(options.batch >= 1 && options.sequences >= options.batch && options.chunk >= 1);
  const bool host_addressable = in_.device.host_addressable();
  emulated_link = host_addressable && (options.host_bytes || options.link_bytes_per_second > 0);
  staged = emulated_link || !host_addressable;
  staging.piece_bytes = planned               ? planned->piece_bytes
                        : room == Room::least ? kLeastPiece
                                              : ample_piece(options.host_bytes.value_or(0));

  small_bytes = align_up(ModelVectors::bytes(in_.spec), kDiskAlign);
  unit_bytes = room == Room::least ? kLeastUnit : ample_unit(*options.device_bytes);
  if (options.unit_bytes > 0) unit_bytes = options.unit_bytes;
  if (planned) unit_bytes = planned->unit_bytes;
  units = cut_weight_units(in_.spec, in_.checkpoint, unit_bytes);
  for (const WeightUnit& one : units) {
    all_units += one.bytes;
    largest_unit = std::max(largest_unit, one.bytes);
  }
  expert_units = cut_expert_units(in_.spec, in_.checkpoint);
  for (const WeightUnit& one : expert_units) {
    all_experts += one.bytes;
    largest_expert = std::max(largest_expert, one.bytes);
  }
  set_shape(options.context, options.chunk);
}

void PlanSizes::set_shape(int all_positions, int prompt_chunk) {
  const Options& options = in_.options;
  context = static_cast<int>(align_up(std::max(all_positions, 1), kPageTokens));
  positions = options.positions > 0 ? std::min(options.positions, context) : context;
  chunk = std::min(prompt_chunk, context);
  kv.context_rows = page_rows(context);
  kv.chunk_rows = page_rows(chunk);
  size_selection();
  logit_rows = std::min(most_rows_, std::max(chunk, options.batch));
  // They save sweeps of the head, and may take an eighth of the budget.
  const uint64_t most_bytes = planned_ ? UINT64_MAX : *options.device_bytes / 8;
  while (logit_rows > 1 && 4ull * in_.spec.shape.vocab * logit_rows > most_bytes) logit_rows /= 2;
  Workspace views;
  const WorkspaceShape shape{chunk, logit_rows, context, options.batch};
  workspace_bytes = align_up(Workspace::cut(in_.spec, shape, in_.ops, nullptr, &views), kDiskAlign);
  host_input_bytes = align_up(2 * views.host_half_bytes() + views.host_choice_bytes(), kDiskAlign);
  const uint64_t logits = static_cast<uint64_t>(views.logits.rows) * views.logits.stride;
  host_logit_bytes = in_.device.host_addressable() ? 0 : align_up(logits, kDiskAlign);
}

void PlanSizes::size_selection() {
  StagingShape landing{0, 0};
  if (!staged) landing = {room_ == Room::least ? kLeastLanding : kLeastPiece, kLandingPieces};
  kv.layout.chosen = choosing_;
  selection = selection_plan(in_.spec, in_.options.selection, kv.layout, in_.skew,
                             {positions, kv.rows_per_layer(), in_.options.sequences, in_.options.batch});
  if (!selection.on()) kv.layout.chosen = {};  // nor is anything kept beside the pages
  spilled_selection = selection;
  const double all = static_cast<double>(selection.most) * selection.batch;
  const int hot_slots = planned_ ? planned_->hot_slots : static_cast<int>(std::lround(std::min(hot_slots_ * all, 1e9)));
  add_hot_set(spilled_selection, kv.layout, positions, hot_slots, landing);
  kv.beside_bytes = spilled_selection.of_spilled() + (in_.device.host_addressable() ? spilled_selection.lookup : 0);
}

// On a CPU the process's own memory is the device's; staging stands in the host tier where there is one.
uint64_t PlanSizes::process_in(Tier tier) const {
  if (in_.device.host_addressable()) return tier == Tier::device ? in_.process_bytes : 0;
  return tier == Tier::device ? in_.device.overhead_bytes() : tier == Tier::host ? in_.process_bytes : 0;
}

uint64_t PlanSizes::selection_on_device() const {
  return selection.fixed() + (in_.device.host_addressable() ? selection.host_bytes : 0);
}

uint64_t PlanSizes::device_fixed() const {
  return process_in(Tier::device) + workspace_bytes + small_bytes + selection_on_device() +
         (in_.device.host_addressable() ? host_input_bytes : 0);
}

uint64_t PlanSizes::host_fixed() const {
  return process_in(Tier::host) + staging_bytes() +
         (in_.device.host_addressable()
              ? 0
              : host_input_bytes + host_logit_bytes + selection.host_bytes + spilled_selection.lookup);
}

uint64_t PlanSizes::least_device(uint64_t host_budget, uint64_t disk_budget) const {
  const uint64_t host_left = host_budget > host_fixed() ? host_budget - host_fixed() : 0;
  return device_fixed() + least_weights() + kv.least(host_left, disk_budget);
}

}  // namespace spillway
