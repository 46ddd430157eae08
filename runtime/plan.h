// Plan: where every byte lives, decided before anything is reserved; values only, printable and comparable.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/kv/layout.h"
#include "memory/tier.h"
#include "memory/weight_unit.h"
#include "prefetch/copy_engine.h"
#include "runtime/kv_selection.h"

namespace spillway {

// What one tier holds, in bytes.
struct TierPlan {
  uint64_t budget = 0;
  uint64_t weights = 0;  // resident here; on disk: in the model's own files
  uint64_t kv = 0;
  uint64_t selection = 0;  // what choosing among the KV takes beside its pages
  uint64_t workspace = 0;  // activations, logits, scratch, host inputs
  uint64_t rings = 0;      // places for what streams through, and staging
  // Code, vocabulary, stacks: in the tier that the process's own memory counts against; of a GPU: its context.
  uint64_t process = 0;
  uint64_t total() const { return weights + kv + selection + workspace + rings + process; }
};

// Seconds that a decode step costs on each resource, and what follows from them. Where several sequences share a pass
// (Plan::batch), a step is one of all of them, and together they fill the context.
struct Expected {
  double decode_tps = 0;  // tokens of all sequences
  double prefill_tps = 0;
  std::string bound;  // what binds decode: "disk", "link" or "compute"; empty: the machine's limits are not known
  double disk_s = 0, link_s = 0, compute_s = 0;  // of a decode step at full context
  uint64_t disk_bytes = 0, link_bytes = 0;       // of a decode step at full context
};

// What choosing among the KV takes beside the pages, in bytes of the device where nothing else is said.
struct SelectionPlan {
  KvSelection wishes;
  int most = 0;                 // granules that a KV head chooses at once; 0: decode steps read everything
  int hot_slots = 0;            // of each layer and KV head; 0: all KV stays on the device
  uint32_t sidecars = 0;        // page rows of layers that choose
  uint64_t partial_keys = 0;    // or bounds of keys
  uint64_t key_scales = 0;      // of packed pages, wherever these are
  uint64_t query_matrices = 0;  // that foretell queries
  uint64_t directions = 0;      // of partial keys
  uint64_t workspace = 0;       // scores, weights, ids, places
  int sequences = 1;            // open at once
  int batch = 1;                // steps that may choose in one pass, of as many sequences
  uint64_t attention_sums = 0;  // of all of them: what each granule has had of the attention
  uint64_t hot_set = 0;
  StagingShape landing{0, 0};  // of reads from disk where it reaches device memory directly
  uint64_t host_bytes = 0;     // of the tier that host inputs lie in: ids and places on their way
  uint64_t lookup = 0;         // of the tier of the process: which granule is in which slot

  bool on() const { return most > 0; }
  // Steps that do choose in one pass: the hot set holds what each of them has chosen.
  int together() const { return hot_slots == 0 ? batch : std::clamp(hot_slots / std::max(most, 1), 1, batch); }
  uint64_t fixed() const {
    return partial_keys + key_scales + query_matrices + directions + workspace + attention_sums;
  }
  uint64_t of_spilled() const { return hot_set + landing.bytes(); }
  uint64_t on_device() const { return fixed() + of_spilled(); }
};

// Of one unit that computes: its layers, and what it holds for them.
struct Plan {
  // Of the model: the layers before them are `before`'s.
  int first_layer = 0, last_layer = 0;  // one past
  bool head = true;
  // None, or one: the layers that the CPU computes beside a device. Its own tiers are as the CPU sees them, what it
  // computes from being Tier::device; in `tiers` they are counted where they lie, in host memory and on disk.
  std::vector<Plan> before;

  int context = 0;    // positions of all sequences together
  int positions = 0;  // of one
  int sequences = 1;  // open at once
  int batch = 1;      // in one pass
  int chunk = 0;
  int logit_rows = 0;
  int lookahead = 0;
  bool emulated_link = false;

  std::array<TierPlan, kTiers> tiers;
  const TierPlan& tier(Tier t) const { return tiers[static_cast<int>(t)]; }
  TierPlan& tier(Tier t) { return tiers[static_cast<int>(t)]; }

  uint64_t unit_bytes = 0;  // that weight units were cut to
  std::vector<WeightUnit> units;
  std::vector<Tier> unit_tiers;  // one for each unit
  uint64_t weight_ring_bytes = 0;
  // Experts, each a unit. All on the device, or all in host memory or on disk; then the device has slots for some of
  // them, and where they are on disk the host may have too.
  std::vector<WeightUnit> expert_units;
  Tier expert_tier = Tier::device;
  uint64_t expert_slot_bytes = 0;  // of the largest
  int expert_device_slots = 0, expert_host_slots = 0;
  uint64_t small_bytes = 0;  // norms and biases: always on the device

  KvLayout kv_layout;
  KvSlots kv_device_slots, kv_host_slots, kv_disk_slots;
  int kv_device_rows_per_layer = 0;
  int kv_choosing_rows_per_layer = 0;  // of layers whose decode steps choose
  SelectionPlan selection;
  uint64_t kv_ring_bytes = 0;

  uint64_t workspace_bytes = 0;
  uint64_t host_input_bytes = 0;
  uint64_t host_logit_bytes = 0;  // where the host cannot read the device's
  StagingShape staging;
  bool staged = false;  // bytes from disk pass through host memory

  Expected expected;
  std::vector<std::string> reasons;  // for choices that speeds decided, a sentence each

  // Counts another unit's bytes into the tiers.
  void take_in(Plan unit);
  bool streams_weights() const { return weight_ring_bytes > 0; }
  bool moves_experts() const { return expert_device_slots > 0; }
  bool streams() const { return streams_weights() || moves_experts(); }
  // What KV takes of the device: pages, rings, and what choosing among it needs.
  uint64_t kv_on_device() const { return tier(Tier::device).kv + tier(Tier::device).selection + kv_ring_bytes; }
  bool spills_kv() const { return kv_host_slots.rows() + kv_disk_slots.rows() > 0; }
};

}  // namespace spillway
