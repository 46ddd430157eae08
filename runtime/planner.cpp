#include "runtime/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "memory/kv/layout.h"
#include "runtime/predict.h"
#include "runtime/weight_units.h"
#include "runtime/workspace.h"

namespace spillway {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;

std::string mib(uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMiB); }

// Units small enough that a ring of several is a small part of the budget, large enough for the drive to run at full
// speed.
uint64_t unit_bytes_for(uint64_t device_budget) { return std::clamp(device_budget / 64, 512 * kKiB, 8 * kMiB); }

// Marks every n-th of the candidates so that `bytes` in all are chosen, spread evenly over the pass: what streams is
// then spread evenly too, and the ring never has to make up for a long resident stretch.
void choose_spread(const std::vector<WeightUnit>& units, std::vector<Tier>& tiers, Tier from, Tier to, uint64_t bytes) {
  uint64_t candidates = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] == from) candidates += units[i].bytes;
  }
  if (candidates == 0) return;
  const double share = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(candidates));
  double due = 0;
  uint64_t left = bytes;
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] != from) continue;
    due += share * static_cast<double>(units[i].bytes);
    if (due + 0.5 < static_cast<double>(units[i].bytes) || units[i].bytes > left) continue;
    due -= static_cast<double>(units[i].bytes);
    left -= units[i].bytes;
    tiers[i] = to;
  }
  // What rounding left over: first fit.
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] != from || units[i].bytes > left) continue;
    left -= units[i].bytes;
    tiers[i] = to;
  }
}

class Planner {
 public:
  explicit Planner(const PlanInput& input) : in_(input), shape_(input.spec.shape), layout_(shape_) {}

  Plan run() {
    fixed_parts();
    place_kv();
    place_weights();
    fill_tiers();
    plan_.expected = predict(plan_, shape_, in_.limits);
    return std::move(plan_);
  }

 private:
  uint64_t device_budget() const { return *in_.options.device_bytes; }
  uint64_t host_budget() const { return in_.options.host_bytes.value_or(0); }

  void fixed_parts() {
    const Options& options = in_.options;
    plan_.context = static_cast<int>(align_up(std::max(options.context, 1), kPageTokens));
    plan_.chunk = std::min(options.chunk, plan_.context);
    plan_.logit_rows = std::min(options.logit_rows, plan_.chunk);
    plan_.lookahead = options.lookahead;
    plan_.emulated_link = in_.device.host_addressable() && (options.host_bytes || options.link_bytes_per_second > 0);
    plan_.staged = plan_.emulated_link || !in_.device.host_addressable();
    for (const LayerTensors& layer : in_.spec.layers) {
      plan_.small_bytes += layer.attn_norm.extent.bytes + layer.ffn_norm.extent.bytes;
    }
    plan_.small_bytes = align_up(plan_.small_bytes + in_.spec.output_norm.extent.bytes, kDiskAlign);
    const uint64_t unit_bytes = options.unit_bytes > 0 ? options.unit_bytes : unit_bytes_for(device_budget());
    plan_.units = cut_weight_units(in_.spec, in_.checkpoint, unit_bytes);
    for (const WeightUnit& unit : plan_.units) largest_unit_ = std::max(largest_unit_, unit.bytes);

    const DType embedding = in_.spec.token_embedding.dtype;
    // Many rows of logits are a convenience: they may take an eighth of the budget.
    while (plan_.logit_rows > 1 && 4ull * shape_.vocab * plan_.logit_rows > device_budget() / 8) plan_.logit_rows /= 2;
    Workspace views;
    plan_.workspace_bytes = align_up(
        Workspace::cut(shape_, embedding, {plan_.chunk, plan_.logit_rows, plan_.context}, in_.ops, nullptr, &views),
        kDiskAlign);
    plan_.host_input_bytes = align_up(2 * views.host_half_bytes(), kDiskAlign);

    uint64_t device_fixed = plan_.workspace_bytes + plan_.small_bytes;
    uint64_t host_fixed = 0;
    // On a CPU the process's own memory is the device's; staging stands in the host tier where there is one.
    (in_.device.host_addressable() ? device_fixed : host_fixed) += in_.process_bytes + plan_.host_input_bytes;
    if (plan_.staged) {
      plan_.staging.piece_bytes = std::clamp(align_up(host_budget() / 64, 256 * kKiB), 256 * kKiB, kMiB);
      host_fixed += staging_bytes();
      if (host_fixed > host_budget()) refuse(Tier::host, host_fixed);
    }
    if (device_fixed > device_budget()) refuse(Tier::device, device_fixed + 2 * largest_unit_ + least_kv());
    device_left_ = device_budget() - device_fixed;
    host_left_ = host_budget() - host_fixed;
  }

  // Two lanes fetch, one spills; each has a staging ring of its own.
  uint64_t staging_bytes() const { return 3 * plan_.staging.bytes(); }

  int rows_per_layer() const { return page_rows(plan_.context); }
  uint64_t kv_bytes(uint64_t rows) const { return rows * layout_.row_bytes(); }
  uint64_t all_rows() const { return static_cast<uint64_t>(rows_per_layer()) * shape_.layers; }
  // Rows that a pass writes into one layer before they can be spilled, twice, so that spilling one layer overlaps the
  // next.
  int transient_rows() const { return 2 * (page_rows(plan_.chunk) + 1); }
  uint64_t least_kv_ring() const { return 2ull * kPagesPerSpan * layout_.row_bytes(); }
  uint64_t least_kv() const { return kv_bytes(std::min<uint64_t>(all_rows(), shape_.layers + transient_rows())); }

  uint64_t all_unit_bytes() const {
    uint64_t sum = 0;
    for (const WeightUnit& unit : plan_.units) sum += unit.bytes;
    return sum;
  }
  uint64_t least_weight_ring() const { return 2 * largest_unit_; }

  void place_kv() {
    const uint64_t all = kv_bytes(all_rows());
    plan_.kv_device_rows_per_layer = rows_per_layer();
    plan_.kv_device_slots = static_cast<uint32_t>(all_rows());
    if (all + all_unit_bytes() <= device_left_) {
      device_left_ -= all;
      return;
    }
    const uint64_t outside_room = host_left_ + in_.options.disk_bytes;
    const uint64_t ring = std::min(least_weight_ring(), all_unit_bytes());
    const bool may_spill = outside_room >= layout_.row_bytes() && rows_per_layer() > 1;
    // KV that stays off the device costs as much a byte as weights do, but is only full at the end: it may take half.
    const uint64_t room = device_left_ > ring ? device_left_ - ring : 0;
    if (all <= room && (!may_spill || all <= room / 2)) {
      device_left_ -= all;
      return;
    }
    if (!may_spill) refuse(Tier::device, device_budget() - device_left_ + ring + all);
    spill_kv(room);
  }

  void spill_kv(uint64_t room) {
    plan_.kv_ring_bytes =
        std::max(3 * kPagesPerSpan * layout_.row_bytes(), align_down(std::min(room / 16, 8 * kMiB), kDiskAlign));
    if (plan_.kv_ring_bytes > room / 4) plan_.kv_ring_bytes = least_kv_ring();
    const uint64_t transient = kv_bytes(transient_rows());
    const uint64_t outside_rows = host_left_ / layout_.row_bytes() + in_.options.disk_bytes / layout_.row_bytes();
    const uint64_t row_of_layers = kv_bytes(shape_.layers);
    const uint64_t share = room / 2 > plan_.kv_ring_bytes + transient ? room / 2 - plan_.kv_ring_bytes - transient : 0;
    int per_layer = static_cast<int>(std::clamp<uint64_t>(share / row_of_layers, 1, rows_per_layer() - 1));
    // What neither host nor disk can hold must stay.
    const int outside_per_layer =
        static_cast<int>(std::min<uint64_t>(outside_rows / shape_.layers, rows_per_layer() - 1));
    per_layer = std::max(per_layer, rows_per_layer() - outside_per_layer);
    const uint64_t need = plan_.kv_ring_bytes + transient + per_layer * row_of_layers;
    if (need > room) refuse(Tier::device, device_budget() - device_left_ + least_weight_ring() + need);

    plan_.kv_device_rows_per_layer = per_layer;
    plan_.kv_device_slots = static_cast<uint32_t>(per_layer) * shape_.layers + transient_rows();
    const uint64_t outside = static_cast<uint64_t>(rows_per_layer() - per_layer) * shape_.layers;
    plan_.kv_host_slots = static_cast<uint32_t>(std::min<uint64_t>(outside, host_left_ / layout_.row_bytes()));
    plan_.kv_disk_slots = static_cast<uint32_t>(outside - plan_.kv_host_slots);
    device_left_ -= need;
    host_left_ -= kv_bytes(plan_.kv_host_slots);
  }

  void place_weights() {
    plan_.unit_tiers.assign(plan_.units.size(), Tier::disk);
    const uint64_t all = all_unit_bytes();
    if (all <= device_left_) {
      std::fill(plan_.unit_tiers.begin(), plan_.unit_tiers.end(), Tier::device);
      device_left_ -= all;
      return;
    }
    if (device_left_ < least_weight_ring()) refuse(Tier::device, device_budget() - device_left_ + least_weight_ring());
    const uint64_t wanted = std::max(4 * largest_unit_, 32 * kMiB);
    plan_.weight_ring_bytes = std::max(least_weight_ring(), align_down(std::min(wanted, device_left_ / 3), kDiskAlign));
    device_left_ -= plan_.weight_ring_bytes;
    choose_spread(plan_.units, plan_.unit_tiers, Tier::disk, Tier::device, device_left_);
    choose_spread(plan_.units, plan_.unit_tiers, Tier::disk, Tier::host, host_left_);
  }

  void fill_tiers() {
    TierPlan& device = plan_.tier(Tier::device);
    TierPlan& host = plan_.tier(Tier::host);
    TierPlan& disk = plan_.tier(Tier::disk);
    device.budget = device_budget();
    host.budget = host_budget();
    disk.budget = in_.options.disk_bytes;
    for (size_t i = 0; i < plan_.units.size(); ++i) {
      plan_.tier(plan_.unit_tiers[i]).weights += plan_.units[i].bytes;
    }
    device.weights += plan_.small_bytes;
    device.kv = kv_bytes(plan_.kv_device_slots);
    host.kv = kv_bytes(plan_.kv_host_slots);
    disk.kv = kv_bytes(plan_.kv_disk_slots);
    device.workspace = plan_.workspace_bytes;
    device.rings = plan_.weight_ring_bytes + plan_.kv_ring_bytes;
    TierPlan& process = in_.device.host_addressable() ? device : host;
    process.process = in_.process_bytes;
    process.workspace += plan_.host_input_bytes;
    if (plan_.staged) host.rings = staging_bytes();
    SPILLWAY_CHECK(device.total() <= device.budget && host.total() <= std::max(host.budget, host.process));
  }

  [[noreturn]] void refuse(Tier tier, uint64_t need) const {
    const uint64_t budget = tier == Tier::device ? device_budget() : host_budget();
    const char* flag = tier == Tier::device ? "--device-mem" : "--host-mem";
    const uint64_t whole = kv_bytes(all_rows());
    throw Error(
        ErrorKind::fit,
        fmt::format("does not fit: {} {} is {}, but at least {} is needed there (process {}, workspace of {} rows {}, "
                    "largest weight unit {}, KV of {} positions {}); nearest fit: {} {}MiB, or a smaller -c or -ub",
                    flag, fmt::format("{}", budget), mib(budget), mib(need), mib(in_.process_bytes), plan_.chunk,
                    mib(plan_.workspace_bytes), mib(largest_unit_), plan_.context, mib(whole), flag,
                    (need + kMiB - 1) / kMiB));
  }

  const PlanInput& in_;
  const ModelShape& shape_;
  KvLayout layout_;
  Plan plan_;
  uint64_t largest_unit_ = 0;
  uint64_t device_left_ = 0;
  uint64_t host_left_ = 0;
};

}  // namespace

Plan make_plan(const PlanInput& input) {
  SPILLWAY_CHECK(input.options.device_bytes.has_value());
  return Planner(input).run();
}

}  // namespace spillway
