// PlanFile: a plan as a file (JSON) that a later run takes in place of one of its own: the choices alone, from which
// the model and its sizes give the rest anew. Whatever a file says is believed only after it was checked against them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "memory/kv/layout.h"
#include "runtime/options.h"
#include "runtime/plan.h"
#include "runtime/plan_sizes.h"
#include "runtime/planner.h"

namespace spillway {

// Of one unit that computes.
struct UnitChoices {
  int first_layer = 0, last_layer = 0;  // of the model; one past
  PlannedSizes sizes;
  uint64_t process_bytes = 0;  // that the process was taken to have on the unit's device, or the host
  int lookahead = 0;
  std::vector<Tier> weight_tiers;  // one for each weight unit
  uint64_t weight_ring_bytes = 0;
  int kv_device_rows_per_layer = 0;
  int kv_choosing_rows_per_layer = 0;
  KvSlots kv_host_slots;
  uint64_t kv_ring_bytes = 0;
  Tier expert_tier = Tier::device;
  int expert_device_slots = 0, expert_host_slots = 0;
};

struct PlanFile {
  std::string path;  // where it was read from
  std::string model, fingerprint;
  std::string processor, device;  // that it was made for, by name
  DeviceChoice device_choice = DeviceChoice::cpu;
  std::optional<uint64_t> host_bytes;  // budgets
  uint64_t device_bytes = 0, disk_bytes = 0;
  int context = 0, chunk = 0, sequences = 1;
  KvCodec kv_codec = KvCodec::f16;
  int kv_edge_layers = 0;
  KvSelection selection;  // but for checks, which are a run's own
  double link_bytes_per_second = 0;
  std::vector<UnitChoices> units;  // in the order of their layers; the last one is the device's

  // Of a plan that was made from `input`. Throws Error(io) where the model's files cannot be read.
  static PlanFile of(const Plan& plan, const PlanInput& input);
  // Throws Error(usage) naming the file and the field, where it is not one or a value is none that a plan could have.
  static PlanFile read(const std::string& path);
  static PlanFile parse(const std::string& text, const std::string& path);
  // The file appears whole or not at all. Throws Error(io).
  void write(const std::string& to, const Expected& expected) const;

  // What it decides. The device is chosen by it only where `options` leaves that open.
  void decide(Options& options) const;
  // Throws Error(fit), naming the file, for another model, or where another device computes.
  void check(const Checkpoint& checkpoint, const Device& on) const;
  // The plan, all sizes computed anew; input.options are as decide() left them, but for smaller budgets. Throws
  // Error(fit), naming the file and what is off, where the choices are none for this model or pass a budget.
  Plan plan(const PlanInput& input) const;
};

}  // namespace spillway
