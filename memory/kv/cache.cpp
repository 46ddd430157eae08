#include "memory/kv/cache.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

KvCache::KvCache(const KvLayout& layout, const KvPools& pools)
    : layout_(layout), pools_(pools), sealed_on_device_(layout.layers), device_rows_(layout.layers, 0) {
  capacity_[0] = pools.device_slots;
  capacity_[1] = pools.host_slots;
  capacity_[2] = pools.disk_slots;
  for (int tier = 0; tier < kTiers; ++tier) {
    for (uint32_t slot = 0; slot < capacity_[tier]; ++slot) free_[tier].push_back({slot, {}});
  }
  const uint32_t all = capacity_[0] + capacity_[1] + capacity_[2];
  rows_.resize(all);
  for (uint32_t row = all; row > 0; --row) unused_rows_.push_back(row - 1);
}

KvCache::SequenceState& KvCache::state(SequenceId sequence) {
  const auto found = sequences_.find(sequence);
  SPILLWAY_CHECK(found != sequences_.end());
  return found->second;
}

const KvCache::SequenceState& KvCache::state(SequenceId sequence) const {
  return const_cast<KvCache*>(this)->state(sequence);
}

SequenceId KvCache::open() {
  sequences_[next_sequence_].rows.resize(layout_.layers);
  return next_sequence_++;
}

SequenceId KvCache::fork(SequenceId from) {
  const SequenceState copy = state(from);
  for (const auto& layer : copy.rows) {
    for (uint32_t row : layer) ++rows_[row].references;
  }
  sequences_[next_sequence_] = copy;
  return next_sequence_++;
}

void KvCache::close(SequenceId sequence, const Event& last_reader) {
  for (const auto& layer : state(sequence).rows) {
    for (uint32_t index : layer) drop(index, last_reader);
  }
  sequences_.erase(sequence);
  ++version_;
}

void KvCache::drop(uint32_t index, const Event& last_reader) {
  Row& row = rows_[index];
  if (--row.references > 0) return;
  if (row.tier == Tier::device) {
    --device_rows_[row.layer];
    if (row.sealed) std::erase(sealed_on_device_[row.layer], index);
  }
  // Of a row outside the device the last user is its last fetch, or the spill that brought it there.
  const bool fetched = row.last_fetch.timeline != nullptr;
  free_slot(row.tier, row.slot, row.tier == Tier::device ? last_reader : fetched ? row.last_fetch : row.written);
  unused_rows_.push_back(index);
}

int KvCache::truncate(SequenceId sequence, int tokens, const Event& last_reader) {
  SequenceState& s = state(sequence);
  SPILLWAY_CHECK(tokens >= 0 && tokens <= s.tokens);
  if (tokens == s.tokens) return tokens;
  const auto cut = static_cast<size_t>(tokens / kPageTokens);
  const auto writable = [&](const auto& layer) {
    const Row& row = rows_[layer[cut]];
    return row.tier == Tier::device && row.references == 1;
  };
  if (!std::all_of(s.rows.begin(), s.rows.end(), writable)) tokens = static_cast<int>(cut) * kPageTokens;
  const auto keep = static_cast<size_t>(page_rows(tokens));
  for (auto& layer : s.rows) {
    for (size_t row = keep; row < layer.size(); ++row) drop(layer[row], last_reader);
    layer.resize(keep);
    if (tokens % kPageTokens == 0) continue;
    Row& open = rows_[layer.back()];  // it fills again
    if (open.sealed) std::erase(sealed_on_device_[open.layer], layer.back());
    open.sealed = false;
  }
  s.tokens = tokens;
  ++version_;
  return tokens;
}

KvCache::FreeSlot KvCache::take_slot(Tier tier) {
  auto& free = free_[static_cast<int>(tier)];
  const FreeSlot slot = free.front();
  free.pop_front();
  peak_[static_cast<int>(tier)] = std::max(peak_[static_cast<int>(tier)], slots_used(tier));
  return slot;
}

void KvCache::free_slot(Tier tier, uint32_t slot, const Event& after) {
  free_[static_cast<int>(tier)].push_back({slot, after});
}

uint32_t KvCache::slots_used(Tier tier) const {
  return capacity_[static_cast<int>(tier)] - static_cast<uint32_t>(free_[static_cast<int>(tier)].size());
}

uint32_t KvCache::new_row(int layer, std::vector<Event>& after) {
  if (!has_slot(Tier::device) || unused_rows_.empty()) {
    throw Error(ErrorKind::fit, fmt::format("all {} page rows of the KV cache on the device are taken",
                                            capacity_[static_cast<int>(Tier::device)]));
  }
  const FreeSlot slot = take_slot(Tier::device);
  if (!slot.after.done()) after.push_back(slot.after);
  const uint32_t index = unused_rows_.back();
  unused_rows_.pop_back();
  rows_[index] = {.references = 1,
                  .layer = layer,
                  .sealed = false,
                  .tier = Tier::device,
                  .slot = slot.slot,
                  .written = {},
                  .last_fetch = {}};
  ++device_rows_[layer];
  return index;
}

KvGrowth KvCache::grow(SequenceId sequence, int layer, int count) {
  SequenceState& s = state(sequence);
  std::vector<uint32_t>& table = s.rows[layer];
  KvGrowth growth;
  for (int done = 0; done < count;) {
    const int token = s.tokens + done;
    const int row = token / kPageTokens;
    const int first = token % kPageTokens;
    if (row == static_cast<int>(table.size())) {
      table.push_back(new_row(layer, growth.after));
    } else if (rows_[table[row]].references > 1) {
      const uint32_t own = new_row(layer, growth.after);
      growth.copies.push_back({device_slot(rows_[own].slot), device_slot(rows_[table[row]].slot), layout_.row_bytes()});
      --rows_[table[row]].references;
      table[row] = own;
    }
    const int take = std::min(kPageTokens - first, count - done);
    growth.runs.push_back({device_slot(rows_[table[row]].slot), first, done, take});
    done += take;
    if (first + take == kPageTokens) seal(table[row]);
  }
  return growth;
}

void KvCache::seal(uint32_t index) {
  Row& row = rows_[index];
  SPILLWAY_CHECK(!row.sealed && row.tier == Tier::device);
  row.sealed = true;
  sealed_on_device_[row.layer].push_back(index);
}

void KvCache::advance(SequenceId sequence, int count) { state(sequence).tokens += count; }

int KvCache::tokens(SequenceId sequence) const { return state(sequence).tokens; }

std::vector<Demotion> KvCache::settle(int layer) {
  std::vector<Demotion> demotions;
  auto& sealed = sealed_on_device_[layer];
  while (device_rows_[layer] > pools_.device_rows_per_layer && !sealed.empty()) {
    const Tier to = has_slot(Tier::host) ? Tier::host : Tier::disk;
    if (!has_slot(to)) {
      throw Error(ErrorKind::fit,
                  fmt::format("the KV cache is full: {} page rows on the device, {} on the host, {} on disk",
                              capacity_[0], capacity_[1], capacity_[2]));
    }
    const uint32_t index = sealed.front();
    sealed.pop_front();
    Row& row = rows_[index];
    Demotion demotion{.row = index, .from = device_slot(row.slot), .from_slot = row.slot, .to = {}, .after = {}};
    const FreeSlot slot = take_slot(to);
    if (!slot.after.done()) demotion.after.push_back(slot.after);
    row.tier = to;
    row.slot = slot.slot;
    --device_rows_[layer];
    demotion.to = place_of(row);
    demotions.push_back(std::move(demotion));
    ++version_;
  }
  return demotions;
}

void KvCache::moved(const Demotion& demotion, const Event& end) {
  rows_[demotion.row].written = end;
  free_slot(Tier::device, demotion.from_slot, end);
}

int KvCache::rows(SequenceId sequence, int layer) const { return static_cast<int>(state(sequence).rows[layer].size()); }

RowPlace KvCache::place_of(const Row& row) const {
  RowPlace place{.tier = row.tier, .slot = row.slot, .data = nullptr, .file_offset = 0, .written = row.written};
  if (row.tier == Tier::device) place.data = device_slot(row.slot);
  if (row.tier == Tier::host) place.data = pools_.host + row.slot * layout_.row_bytes();
  if (row.tier == Tier::disk) place.file_offset = pools_.file_offset + row.slot * layout_.row_bytes();
  return place;
}

RowPlace KvCache::place(SequenceId sequence, int layer, int row) const {
  return place_of(rows_[state(sequence).rows[layer][row]]);
}

void KvCache::reading(SequenceId sequence, int layer, int row, const Event& event) {
  rows_[state(sequence).rows[layer][row]].last_fetch = event;
}

}  // namespace spillway
