#include "memory/kv/cache.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

KvCache::KvCache(const KvLayout& layout, const KvPools& pools)
    : layout_(layout),
      pools_(pools),
      sealed_on_device_(layout.layers),
      grown_(layout.layers),
      device_rows_(layout.layers, 0) {
  uint32_t all = 0;
  for (const Tier tier : {Tier::device, Tier::host, Tier::disk}) {
    const KvSlots there = slots(tier);
    for (uint32_t slot = 0; slot < there.full; ++slot) free(tier, false).push_back({slot, {}});
    for (uint32_t slot = 0; slot < there.packed; ++slot) free(tier, true).push_back({slot, {}});
    all += there.rows();
  }
  rows_.resize(all);
  for (uint32_t row = all; row > 0; --row) unused_rows_.push_back(row - 1);
  for (uint32_t sidecar = pools.sidecar_count; sidecar > 0; --sidecar) unused_sidecars_.push_back(sidecar - 1);
}

KvSlots KvCache::slots(Tier tier) const {
  return tier == Tier::device ? pools_.device_slots : tier == Tier::host ? pools_.host_slots : pools_.disk_slots;
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
  SequenceState& s = sequences_[next_sequence_];
  s.rows.resize(layout_.layers);
  s.next_to_pack.assign(static_cast<size_t>(layout_.layers), layout_.packed.sink_rows);
  s.generation = next_generation_++;
  return next_sequence_++;
}

SequenceId KvCache::fork(SequenceId from) {
  SequenceState copy = state(from);
  copy.generation = next_generation_++;
  for (const auto& layer : copy.rows) {
    for (uint32_t row : layer) {
      if (row != kGone) ++rows_[row].references;
    }
  }
  sequences_[next_sequence_] = copy;
  return next_sequence_++;
}

void KvCache::close(SequenceId sequence, const Event& last_reader) {
  for (const auto& layer : state(sequence).rows) {
    for (uint32_t index : layer) drop(index, last_reader);
  }
  sequences_.erase(sequence);
  for (auto& grown : grown_) std::erase(grown, sequence);
  ++version_;
}

void KvCache::drop(uint32_t index, const Event& last_reader) {
  if (index == kGone) return;
  Row& row = rows_[index];
  if (--row.references > 0) return;
  if (row.tier == Tier::device) {
    --device_rows_[row.layer];
    if (row.sealed) std::erase(sealed_on_device_[row.layer], index);
  }
  // Of a row outside the device the last user is its last fetch, or the spill that brought it there.
  const bool fetched = row.last_fetch.timeline != nullptr;
  free_slot(row, row.slot, row.tier, row.tier == Tier::device ? last_reader : fetched ? row.last_fetch : row.written);
  unused_rows_.push_back(index);
  if (layout_.chooses(row.layer)) unused_sidecars_.push_back(row.sidecar);
}

int KvCache::truncate(SequenceId sequence, int tokens, const Event& last_reader) {
  SequenceState& s = state(sequence);
  SPILLWAY_CHECK(tokens >= 0 && tokens <= s.tokens);
  if (tokens == s.tokens) return tokens;
  s.generation = next_generation_++;
  const auto cut = static_cast<size_t>(tokens / kPageTokens);
  const auto writable = [&](const auto& layer) {
    SPILLWAY_CHECK(tokens == 0 || std::find(layer.begin(), layer.end(), kGone) == layer.end());
    const Row& row = rows_[layer[cut]];
    return row.tier == Tier::device && row.references == 1 && !row.packed;
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
  for (int& next : s.next_to_pack) next = std::max(std::min(next, page_rows(tokens)), layout_.packed.sink_rows);
  s.tokens = tokens;
  ++version_;
  return tokens;
}

KvCache::FreeSlot KvCache::take_slot(Tier tier, bool packed) {
  FreeSlots& there = free(tier, packed);
  const FreeSlot slot = there.front();
  there.pop_front();
  peak_[static_cast<int>(tier)] = std::max(peak_[static_cast<int>(tier)], bytes_used(tier));
  return slot;
}

void KvCache::free_slot(const Row& row, uint32_t slot, Tier tier, const Event& after) {
  free(tier, row.packed).push_back({slot, after});
}

uint32_t KvCache::used(Tier tier, bool packed) const {
  const KvSlots all = slots(tier);
  return (packed ? all.packed : all.full) - static_cast<uint32_t>(free_[static_cast<int>(tier)][packed ? 1 : 0].size());
}

uint64_t KvCache::offset_of(Tier tier, bool packed, uint32_t slot) const {
  const uint64_t before = packed ? slots(tier).full * layout_.row_bytes() : 0;
  return before + slot * layout_.row_bytes(packed);
}

void KvCache::refuse_growth(const char* what, uint32_t slots) const {
  throw Error(ErrorKind::fit, fmt::format("all {} {}page rows of the KV cache on the device are taken", slots, what));
}

void KvCache::refuse_rows(bool packed) const {
  if (packed) refuse_growth("packed ", pools_.device_slots.packed);
  refuse_growth("", pools_.device_slots.full);
}

// On the device; a packed one is sealed.
uint32_t KvCache::new_row(int layer, bool packed, std::vector<Event>& after) {
  if (free(Tier::device, packed).empty() || unused_rows_.empty()) refuse_rows(packed);
  const FreeSlot slot = take_slot(Tier::device, packed);
  if (!slot.after.done()) after.push_back(slot.after);
  const uint32_t index = unused_rows_.back();
  unused_rows_.pop_back();
  rows_[index] = {.references = 1,
                  .layer = layer,
                  .sealed = packed,
                  .packed = packed,
                  .tier = Tier::device,
                  .slot = slot.slot,
                  .written = {},
                  .last_fetch = {}};
  if (layout_.chooses(layer)) {
    if (unused_sidecars_.empty()) refuse_growth("choosing layers' ", pools_.sidecar_count);
    rows_[index].sidecar = unused_sidecars_.back();
    unused_sidecars_.pop_back();
  }
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
      table.push_back(new_row(layer, false, growth.after));
    } else if (rows_[table[row]].references > 1) {
      const uint32_t own = new_row(layer, false, growth.after);
      growth.copies.push_back({on_device(rows_[own]), on_device(rows_[table[row]]), layout_.row_bytes()});
      if (layout_.chooses(layer)) {
        growth.copies.push_back({sidecar_of(rows_[own]), sidecar_of(rows_[table[row]]), layout_.sidecar_bytes()});
      }
      --rows_[table[row]].references;
      table[row] = own;
    }
    const int take = std::min(kPageTokens - first, count - done);
    growth.runs.push_back({on_device(rows_[table[row]]), first, done, take});
    if (layout_.chooses(layer)) growth.sidecars.push_back(sidecar_of(rows_[table[row]]));
    done += take;
    if (first + take == kPageTokens) seal(table[row]);
  }
  if (layout_.packs(layer)) grown_[layer].push_back(sequence);
  return growth;
}

void KvCache::seal(uint32_t index) {
  Row& row = rows_[index];
  SPILLWAY_CHECK(!row.sealed && !row.packed && row.tier == Tier::device);
  row.sealed = true;
  if (!layout_.packs(row.layer)) sealed_on_device_[row.layer].push_back(index);
}

KvPacking KvCache::pack(int layer) {
  KvPacking packing;
  for (const SequenceId sequence : grown_[layer]) pack(state(sequence), layer, packing);
  grown_[layer].clear();
  return packing;
}

void KvCache::pack(SequenceState& sequence, int layer, KvPacking& packing) {
  std::vector<uint32_t>& table = sequence.rows[layer];
  const int full = static_cast<int>(table.size()) - (rows_[table.back()].sealed ? 0 : 1);
  for (int& row = sequence.next_to_pack[layer]; row < full - layout_.packed.recent_rows; ++row) {
    if (table[row] != kGone) pack_row(table[row], packing);
  }
}

void KvCache::pack_row(uint32_t& index, KvPacking& packing) {
  Row& row = rows_[index];
  SPILLWAY_CHECK(row.sealed && !row.packed && row.tier == Tier::device);
  const std::byte* from = on_device(row);
  if (row.references > 1) {
    const uint32_t own = new_row(row.layer, true, packing.after);
    if (layout_.chooses(row.layer)) {
      packing.copies.push_back({sidecar_of(rows_[own]), sidecar_of(row), layout_.sidecar_bytes()});
    }
    --row.references;
    index = own;
  } else {
    if (free(Tier::device, true).empty()) refuse_rows(true);
    const FreeSlot slot = take_slot(Tier::device, true);
    if (!slot.after.done()) packing.after.push_back(slot.after);
    free_slot(row, row.slot, Tier::device, {});
    row.packed = true;
    row.slot = slot.slot;
  }
  const Row& packed = rows_[index];
  packing.runs.push_back({from, on_device(packed)});
  if (layout_.chooses(packed.layer)) packing.sidecars.push_back(sidecar_of(packed));
  sealed_on_device_[packed.layer].push_back(index);
}

void KvCache::advance(SequenceId sequence, int count) { state(sequence).tokens += count; }

int KvCache::tokens(SequenceId sequence) const { return state(sequence).tokens; }

std::vector<Demotion> KvCache::settle(int layer) {
  std::vector<Demotion> demotions;
  SPILLWAY_CHECK(grown_[layer].empty());
  auto& sealed = sealed_on_device_[layer];
  while (device_rows_[layer] > kept_rows(layer) && !sealed.empty()) {
    const uint32_t index = sealed.front();
    Row& row = rows_[index];
    const Tier to = free(Tier::host, row.packed).empty() ? Tier::disk : Tier::host;
    if (free(to, row.packed).empty()) {
      throw Error(ErrorKind::fit,
                  fmt::format("the KV cache is full: {} page rows on the device, {} on the host, {} on disk",
                              pools_.device_slots.rows(), pools_.host_slots.rows(), pools_.disk_slots.rows()));
    }
    sealed.pop_front();
    Demotion demotion{.row = index, .from = on_device(row), .from_slot = row.slot, .to = {}, .after = {}};
    const FreeSlot slot = take_slot(to, row.packed);
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
  Row& row = rows_[demotion.row];
  row.written = end;
  free_slot(row, demotion.from_slot, Tier::device, end);
}

int KvCache::let_go(SequenceId sequence, int layer, const std::vector<bool>& stays, const Event& last_reader) {
  std::vector<uint32_t>& table = state(sequence).rows[layer];
  int gone = 0;
  for (size_t row = 0; row < std::min(table.size(), stays.size()); ++row) {
    if (stays[row] || table[row] == kGone || !rows_[table[row]].sealed) continue;
    drop(table[row], last_reader);
    table[row] = kGone;
    ++gone;
  }
  if (gone > 0) ++version_;
  return gone;
}

uint64_t KvCache::bytes_kept(SequenceId sequence) const {
  uint64_t sum = 0;
  for (const auto& layer : state(sequence).rows) {
    for (const uint32_t row : layer) sum += row == kGone ? 0 : layout_.row_bytes(rows_[row].packed);
  }
  return sum;
}

int KvCache::rows(SequenceId sequence, int layer) const { return static_cast<int>(state(sequence).rows[layer].size()); }

RowPlace KvCache::place_of(const Row& row) const {
  RowPlace place{.tier = row.tier,
                 .slot = row.slot,
                 .data = nullptr,
                 .file_offset = 0,
                 .written = row.written,
                 .packed = row.packed,
                 .bytes = layout_.row_bytes(row.packed)};
  const uint64_t offset = offset_of(row.tier, row.packed, row.slot);
  if (row.tier == Tier::device) place.data = pools_.device + offset;
  if (row.tier == Tier::host) place.data = pools_.host + offset;
  if (row.tier == Tier::disk) place.file_offset = pools_.file_offset + offset;
  return place;
}

RowPlace KvCache::place(SequenceId sequence, int layer, int row) const {
  const uint32_t index = state(sequence).rows[layer][row];
  SPILLWAY_CHECK(index != kGone);
  return place_of(rows_[index]);
}

void KvCache::places(SequenceId sequence, int layer, std::vector<RowPlace>& places) const {
  places.clear();
  for (const uint32_t row : state(sequence).rows[layer]) {
    places.push_back(row == kGone ? RowPlace{} : place_of(rows_[row]));
  }
}

void KvCache::sidecars(SequenceId sequence, int layer, std::vector<const std::byte*>& sidecars) const {
  sidecars.clear();
  for (const uint32_t row : state(sequence).rows[layer]) {
    sidecars.push_back(row == kGone ? nullptr : sidecar_of(rows_[row]));
  }
}

std::byte* KvCache::sidecar_of(const Row& row) const {
  return layout_.chooses(row.layer) ? pools_.sidecars + row.sidecar * layout_.sidecar_bytes() : nullptr;
}

std::byte* KvCache::sidecar(SequenceId sequence, int layer, int row) const {
  return sidecar_of(rows_[state(sequence).rows[layer][row]]);
}

void KvCache::reading(SequenceId sequence, int layer, int row, const Event& event) {
  rows_[state(sequence).rows[layer][row]].last_fetch = event;
}

}  // namespace spillway
