// PlanSizes: what a plan must hold whatever lies where, and from it the least that a tier must have. Reserves nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "memory/tier.h"
#include "memory/weight_unit.h"
#include "prefetch/copy_engine.h"
#include "runtime/kv_sizes.h"

namespace spillway {

struct PlanInput;

// Sizes that are a matter of speed (units that move together, rows of logits, staging) grow with the budgets. Before
// anything is refused they are tried at their least, which no budget changes: so the nearest budget that fits is known.
enum class Room : uint8_t { ample, least };

// Those sizes as an earlier plan had them, whatever the budgets are now.
struct PlannedSizes {
  uint64_t unit_bytes = 0;   // that weight units are cut to
  uint64_t piece_bytes = 0;  // of staging
  int logit_rows = 1;
  int hot_slots = 0;  // granules of a layer's KV head
};

class PlanSizes {
 public:
  // Throws Error(usage) for more positions than can be counted. rows: of logits at most. hot_slots: granules of a hot
  // set, in terms of those that all sequences of a pass choose at once, at least what one of them does.
  PlanSizes(const PlanInput& input, Room room, int rows, double hot_slots);
  // All at their least.
  explicit PlanSizes(const PlanInput& input) : PlanSizes(input, Room::least, 1, 0) {}
  PlanSizes(const PlanInput& input, const PlannedSizes& planned);
  // As if so many positions of all sequences, and chunks of so many, had been asked for.
  void set_shape(int all_positions, int prompt_chunk);

  int context = 0;    // whole pages
  int positions = 0;  // of one sequence
  int chunk = 0;
  int logit_rows = 0;
  bool emulated_link = false;
  bool staged = false;  // bytes from disk pass through host memory
  StagingShape staging;
  uint64_t unit_bytes = 0;
  std::vector<WeightUnit> units;
  uint64_t all_units = 0;  // bytes
  uint64_t largest_unit = 0;
  std::vector<WeightUnit> expert_units;
  uint64_t all_experts = 0;     // bytes
  uint64_t largest_expert = 0;  // and of a slot
  uint64_t small_bytes = 0;     // norms and biases
  uint64_t workspace_bytes = 0;
  uint64_t host_input_bytes = 0;
  uint64_t host_logit_bytes = 0;
  KvSizes kv;
  SelectionPlan selection;          // with all KV on the device,
  SelectionPlan spilled_selection;  // or not

  // Two lanes fetch, one spills, and one brings experts; each has a staging ring of its own.
  uint64_t staging_bytes() const { return staged ? (expert_units.empty() ? 3 : 4) * staging.bytes() : 0; }
  // What choosing among the KV takes of the device beside pages and hot set.
  uint64_t selection_on_device() const;
  // The process's own memory, or a GPU's context.
  uint64_t process_in(Tier tier) const;
  // What a tier holds before any matrix or KV.
  uint64_t device_fixed() const;
  uint64_t host_fixed() const;

  // One unit is read while the next arrives; or all are resident. And so with experts.
  uint64_t least_dense() const { return std::min(2 * largest_unit, all_units); }
  uint64_t least_experts() const { return std::min(2 * largest_expert, all_experts); }
  uint64_t least_weights() const { return least_dense() + least_experts(); }
  uint64_t all_weights() const { return all_units + all_experts; }
  // The budget of the device below which nothing fits.
  uint64_t least_device(uint64_t host_budget, uint64_t disk_budget) const;

 private:
  PlanSizes(const PlanInput& input, Room room, const std::optional<PlannedSizes>& planned, int most_rows,
            double hot_slots);
  void size_selection();

  const PlanInput& in_;
  Room room_;
  std::optional<PlannedSizes> planned_;
  int most_rows_;      // of logits
  double hot_slots_;   // in terms of those chosen in a pass
  KvChosen choosing_;  // where the context is long enough
};

}  // namespace spillway
