#include "prefetch/expert_feed.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace spillway {
namespace {

// Slots that a prompt passes through: enough that copies follow one another without a gap.
constexpr int kMostPromptSlots = 16;

}  // namespace

ExpertFeed::ExpertFeed(const ExpertFeedParts& parts)
    : p_(parts),
      resident_(std::all_of(parts.home.places.begin(), parts.home.places.end(),
                            [](const WeightPlace& place) { return place.tier == Tier::device; })),
      on_device_(static_cast<uint32_t>(parts.home.units.size()), parts.device.count),
      on_host_(static_cast<uint32_t>(parts.home.units.size()), parts.host.count),
      device_slots_(static_cast<size_t>(parts.device.count)),
      host_slots_(static_cast<size_t>(parts.host.count)) {
  SPILLWAY_CHECK(resident_ || (parts.lane != nullptr && parts.device.count > 0));
  SPILLWAY_CHECK(parts.host.count == 0 || parts.host_lane != nullptr);
  misses_.reserve(static_cast<size_t>(parts.experts));
  slots_.reserve(static_cast<size_t>(parts.experts));
  here_.reserve(static_cast<size_t>(parts.experts));
  held_.reserve(static_cast<size_t>(parts.experts));
}

void ExpertFeed::ask(int first_unit, std::span<const int> chosen, bool prompt) {
  SPILLWAY_CHECK(!resident_ && held_.empty() && hits_taken_ && taken_ == misses_.size());
  first_unit_ = first_unit;
  warmth_ = prompt ? Warmth::cold : Warmth::warm;
  most_fetches_ =
      prompt ? std::clamp(p_.device.count / 4, std::min(2, p_.device.count), kMostPromptSlots) : p_.device.count;
  misses_.clear();
  slots_.clear();
  here_.clear();
  ready_.clear();
  started_ = taken_ = returned_ = 0;
  hits_taken_ = false;
  ExpertCounts& counts = counts_[prompt ? 1 : 0];
  for (const int expert : chosen) {
    const auto unit = static_cast<uint32_t>(first_unit + expert);
    ++counts.asked;
    const auto slot = on_device_.find(unit);
    if (!slot) {
      misses_.push_back(unit);
      counts.on_host += p_.home.places[unit].tier == Tier::host || on_host_.find(unit) ? 1 : 0;
      continue;
    }
    ++counts.on_device;
    on_device_.touch(*slot, warmth_);
    on_device_.pin(*slot);
    held_.push_back(*slot);
    here_.push_back({expert, device_place(*slot)});
    Event& ready = device_slots_[*slot].ready;
    if (ready.done()) ready = {};  // seen once is enough
    if (ready.timeline != nullptr) ready_.push_back(ready);
  }
  start_fetches();
}

void ExpertFeed::start_fetches() {
  while (started_ < misses_.size() && static_cast<int>(started_ - returned_) < most_fetches_) {
    const uint32_t unit = misses_[started_];
    const auto slot = on_device_.take(unit, warmth_);
    if (!slot) return;  // all are being read; the next to be given back is free
    on_device_.pin(*slot);
    slots_.push_back(*slot);
    ++started_;
    device_slots_[*slot].ready = fetch(unit, *slot);
  }
}

bool ExpertFeed::next(Group* group) {
  if (!hits_taken_) {
    hits_taken_ = true;
    if (!here_.empty()) {
      *group = {here_, ready_};
      return true;
    }
  }
  SPILLWAY_CHECK(held_.empty());
  if (taken_ == misses_.size()) return false;
  SPILLWAY_CHECK(taken_ < started_);
  const int slot = slots_[taken_];
  here_.assign(1, {static_cast<int>(misses_[taken_]) - first_unit_, device_place(slot)});
  ready_.assign(1, device_slots_[slot].ready);
  held_.push_back(slot);
  ++taken_;
  *group = {here_, ready_};
  return true;
}

void ExpertFeed::give_back(const Event& last_reader) {
  for (const int slot : held_) {
    device_slots_[slot].last_reader = last_reader;
    on_device_.unpin(slot);
  }
  held_.clear();
  returned_ = taken_;
  start_fetches();
}

std::vector<DiskMove> ExpertFeed::reads(uint32_t unit, std::byte* place) const {
  std::vector<DiskMove> moves;
  for (const WeightRun& run : p_.home.units[unit].runs) {
    moves.push_back({run.extent.file, run.extent.offset, run.extent.bytes, place + run.offset, run.needed});
  }
  return moves;
}

Event ExpertFeed::fetch(uint32_t unit, int slot) {
  std::vector<Event> after{device_slots_[slot].last_reader};
  std::byte* place = device_place(slot);
  const WeightPlace& home = p_.home.places[unit];
  if (home.tier == Tier::host) {
    Moves moves;
    moves.link.push_back({place, home.data, p_.home.units[unit].bytes});
    return p_.lane->to_device(std::move(moves), std::move(after), Cause::experts);
  }
  if (p_.host.count > 0) return fetch_through_host(unit, place, std::move(after));
  return p_.lane->to_device({.disk = reads(unit, place), .link = {}}, std::move(after), Cause::experts);
}

// By way of a slot of host memory, where it stays until others need it.
Event ExpertFeed::fetch_through_host(uint32_t unit, std::byte* place, std::vector<Event> after) {
  std::optional<int> slot = on_host_.find(unit);
  if (slot) {
    on_host_.touch(*slot, warmth_);
  } else {
    slot = on_host_.take(unit, warmth_);
    HostSlot& host = host_slots_[*slot];
    host.ready = p_.host_lane->to_device({.disk = reads(unit, host_place(*slot)), .link = {}},
                                         std::exchange(host.readers, {}), Cause::experts);
  }
  HostSlot& host = host_slots_[*slot];
  const bool on_its_way = !host.ready.done();
  after.push_back(host.ready);
  Moves moves;
  moves.link.push_back({place, host_place(*slot), p_.home.units[unit].bytes});
  Event end = p_.lane->to_device(std::move(moves), std::move(after), Cause::experts);
  if (on_its_way) end.arrival = arrival_of(Link::disk_read, Cause::experts);
  std::erase_if(host.readers, [](const Event& event) { return event.done(); });
  host.readers.push_back(end);
  return end;
}

}  // namespace spillway
