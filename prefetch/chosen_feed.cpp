#include "prefetch/chosen_feed.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/check.h"

namespace spillway {
namespace {

// Of one read: below any piece of staging. What lies between two needed blocks of the drive is read with them where
// that costs no more than a read of its own: a drive of 2.9 GB/s took 5 to 10 us for each, beside its bytes
// (perf/README.md).
constexpr uint64_t kMostStretch = 64 << 10;
constexpr uint64_t kGap = 16 << 10;

int granules_of(int tokens, int granule_tokens) { return (tokens + granule_tokens - 1) / granule_tokens; }

}  // namespace

ChosenCounts& ChosenCounts::operator+=(const ChosenCounts& other) {
  granules += other.granules;
  in_place += other.in_place;
  hits += other.hits;
  tokens += other.tokens;
  tokens_seen += other.tokens_seen;
  return *this;
}

ChosenCounts ChosenCounts::since(const ChosenCounts& earlier) const {
  return {.granules = granules - earlier.granules,
          .in_place = in_place - earlier.in_place,
          .hits = hits - earlier.hits,
          .tokens = tokens - earlier.tokens,
          .tokens_seen = tokens_seen - earlier.tokens_seen};
}

uint64_t ChosenFeed::hot_bytes(const KvLayout& layout, int layer, int slots) {
  if (!layout.chooses(layer)) return 0;
  return static_cast<uint64_t>(layout.format.kv_heads) * slots * layout.granule_bytes(layout.packs(layer));
}

uint64_t ChosenFeed::hot_bytes(const KvLayout& layout, int slots) {
  uint64_t sum = 0;
  for (int layer = 0; layer < layout.layers; ++layer) sum += hot_bytes(layout, layer, slots);
  return sum;
}

ChosenFeed::ChosenFeed(const ChosenFeedParts& parts)
    : p_(parts),
      format_(parts.cache.layout().format),
      granule_tokens_(parts.cache.layout().chosen.granule_tokens),
      hot_(parts.slots == 0 ? 0 : parts.cache.layout().choosing_layers() * format_.kv_heads,
           granules_of(parts.context, granule_tokens_) * parts.sequences, std::max(parts.slots, 1)),
      choices_((static_cast<size_t>(parts.ahead) + 1) * static_cast<size_t>(parts.batch)),
      known_(static_cast<size_t>(parts.sequences)),
      granules_(granules_of(parts.context, granule_tokens_)) {
  const KvLayout& layout = parts.cache.layout();
  SPILLWAY_CHECK(parts.hot.size() >= hot_bytes(layout, parts.slots));
  SPILLWAY_CHECK(parts.slots == 0 || (parts.slots >= parts.most && parts.lane != nullptr));
  uint64_t offset = 0;
  for (int layer = 0, number = 0; layer < layout.layers; ++layer) {
    hot_offset_.push_back(offset);
    offset += hot_bytes(layout, layer, parts.slots);
    number_.push_back(number);
    number += layout.chooses(layer) ? 1 : 0;
  }
  const auto most = static_cast<size_t>(parts.most);
  for (Choice& one : choices_) {
    one.ids.reserve(most * format_.kv_heads);
    one.slots.reserve(most * format_.kv_heads);
  }
  missing_.reserve(most * format_.kv_heads);
  for (auto* list : {&outside_, &slots_, &missed_}) list->reserve(most);
}

std::byte* ChosenFeed::slot(int layer, int head, int32_t slot, bool packed) const {
  const uint64_t index = static_cast<uint64_t>(head) * p_.slots + static_cast<uint64_t>(slot);
  return p_.hot.data() + hot_offset_[layer] + index * p_.cache.layout().granule_bytes(packed);
}

int ChosenFeed::numbers_of(SequenceId sequence) {
  const uint64_t generation = p_.cache.generation(sequence);
  auto found = std::find_if(known_.begin(), known_.end(), [&](const Known& k) { return k.generation == generation; });
  if (found == known_.end()) {
    found =
        std::min_element(known_.begin(), known_.end(), [](const Known& a, const Known& b) { return a.used < b.used; });
    if (found->generation != 0) hot_.forget(static_cast<int>(found - known_.begin()) * granules_, granules_);
    found->generation = generation;
  }
  found->used = ++clock_;
  return static_cast<int>(found - known_.begin()) * granules_;
}

// A slot may be given to another granule while the last one's bytes are on their way to it where a layer chooses anew
// in a step; else whoever reads a slot has waited for them.
void ChosenFeed::fetch(const Chooser& who, int layer, std::span<const int32_t> ids, int tokens, Cause cause) {
  SPILLWAY_CHECK(p_.cache.layout().chooses(layer) && ids.size() % format_.kv_heads == 0 && who.index < p_.batch);
  const int first_number = p_.slots > 0 ? numbers_of(who.sequence) : 0;
  Choice& chosen = choice(layer, who.index);
  const bool anew = chosen.expected && chosen.layer == layer;
  chosen.layer = layer;
  chosen.tokens = tokens;
  chosen.counts = {};
  chosen.expected = true;
  if (!anew) chosen.fetched = {};
  chosen.ids.assign(ids.begin(), ids.end());
  chosen.slots.assign(ids.size(), kInPlace);
  p_.cache.places(who.sequence, layer, rows_);
  missing_.clear();
  for (int head = 0; head < format_.kv_heads; ++head) look_up(layer, head, first_number, chosen);
  after_.clear();
  for (int index = 0; anew && index < p_.batch; ++index) {
    const Event& earlier = choice(layer, index).fetched;
    if (!earlier.done()) after_.push_back(earlier);
  }
  if (!missing_.empty()) chosen.fetched = bring(who, layer, cause);
}

// Rows that the step itself begins are not there yet; they will be on the device.
void ChosenFeed::look_up(int layer, int head, int first_number, Choice& chosen) {
  const size_t count = chosen.ids.size() / format_.kv_heads;
  const size_t begin = count * head;
  outside_.clear();
  size_t end = begin;
  for (; end < begin + count && chosen.ids[end] != kNoGranule; ++end) {
    const size_t i = end;
    const auto row = static_cast<size_t>(row_of(chosen.ids[i]));
    if (row < rows_.size() && rows_[row].tier != Tier::device) outside_.push_back(first_number + chosen.ids[i]);
  }
  chosen.counts.granules += end - begin;
  chosen.counts.in_place += end - begin - outside_.size();
  if (outside_.empty()) return;
  slots_.resize(outside_.size());
  missed_.clear();
  hot_.choose(number_[layer] * format_.kv_heads + head, outside_, slots_, missed_);
  chosen.counts.hits += outside_.size() - missed_.size();
  for (const int32_t i : missed_) missing_.push_back({outside_[i] - first_number, head, slots_[i]});
  for (size_t i = begin, next = 0; next < outside_.size(); ++i) {
    if (first_number + chosen.ids[i] == outside_[next]) chosen.slots[i] = slots_[next++];
  }
}

// The runs of bytes that a granule takes of its page row, `from` the row's beginning.
void ChosenFeed::pieces_of(const Missing& missing, bool packed, std::byte* to,
                           std::vector<StretchPiece>& pieces) const {
  const int in_page = missing.granule % (kPageTokens / granule_tokens_);
  if (packed) {
    const PackedPage page = format_.packed_page();
    pieces.push_back({to,
                      static_cast<uint64_t>(missing.head) * page.bytes() + page.header_bytes +
                          static_cast<uint64_t>(in_page) * page.granule_bytes,
                      static_cast<uint64_t>(page.granule_bytes)});
    return;
  }
  const uint64_t half = granule_tokens_ * format_.token_bytes();
  const uint64_t keys = missing.head * format_.page_bytes() + in_page * half;
  pieces.push_back({to, keys, half});
  pieces.push_back({to + half, keys + kPageTokens * format_.token_bytes(), half});
}

Event ChosenFeed::bring(const Chooser& who, int layer, Cause cause) {
  std::sort(missing_.begin(), missing_.end(), [&](const Missing& a, const Missing& b) {
    return std::tuple(row_of(a.granule), a.head, a.granule) < std::tuple(row_of(b.granule), b.head, b.granule);
  });
  PieceMoves moves;
  std::vector<Event> after = after_;
  std::vector<int> read;
  for (size_t i = 0; i < missing_.size();) {
    const int row = row_of(missing_[i].granule);
    const RowPlace& place = rows_[row];
    pieces_.clear();
    for (; i < missing_.size() && row_of(missing_[i].granule) == row; ++i) {
      const Missing& one = missing_[i];
      pieces_of(one, place.packed, slot(layer, one.head, one.slot, place.packed), pieces_);
    }
    if (!place.written.done()) after.push_back(place.written);
    read.push_back(row);
    if (place.tier == Tier::disk) {
      from_disk(place, moves);
    } else {
      for (const StretchPiece& piece : pieces_) moves.link.push_back({piece.to, place.data + piece.from, piece.bytes});
    }
  }
  const Event end = p_.lane->gather(std::move(moves), std::move(after), cause);
  for (const int row : read) p_.cache.reading(who.sequence, layer, row, end);
  return end;
}

// The pieces of a row in stretches of whole blocks of the drive.
void ChosenFeed::from_disk(const RowPlace& row, PieceMoves& moves) {
  std::sort(pieces_.begin(), pieces_.end(),
            [](const StretchPiece& a, const StretchPiece& b) { return a.from < b.from; });
  uint64_t begin = 0, end = 0;  // of the stretch, from the row's beginning
  for (const StretchPiece& piece : pieces_) {
    const uint64_t first = align_down(piece.from, kDiskAlign);
    const uint64_t last = align_up(piece.from + piece.bytes, kDiskAlign);
    if (end == 0 || first > end + kGap || last > begin + kMostStretch) {
      moves.disk.push_back({.file = p_.cache.pools().file,
                            .offset = row.file_offset + first,
                            .bytes = 0,
                            .first = moves.pieces.size(),
                            .pieces = 0});
      begin = first;
      end = last;
    }
    end = std::max(end, last);
    DiskStretch& stretch = moves.disk.back();
    stretch.bytes = end - begin;
    ++stretch.pieces;
    moves.pieces.push_back({piece.to, piece.from - begin, piece.bytes});
  }
}

GranulePlace ChosenFeed::in_row(const RowPlace& row, int head, int32_t granule) const {
  const int in_page = granule % (kPageTokens / granule_tokens_);
  GranulePlace place;
  if (row.packed) {
    const PackedPage page = format_.packed_page();
    place.values = row.data + static_cast<int64_t>(head) * page.bytes();
    place.keys = place.values + page.header_bytes + static_cast<int64_t>(in_page) * page.granule_bytes;
    return place;
  }
  place.keys = row.data + head * format_.page_bytes() + in_page * granule_tokens_ * format_.token_bytes();
  place.values = place.keys + kPageTokens * format_.token_bytes();
  return place;
}

Event ChosenFeed::places(const Chooser& who, int layer, std::span<GranulePlace> table) {
  Choice& chosen = choice(layer, who.index);
  SPILLWAY_CHECK(chosen.layer == layer && table.size() == chosen.ids.size());
  chosen.expected = false;
  const KvLayout& layout = p_.cache.layout();
  const int header = format_.packed_page().header_bytes;
  const size_t count = table.size() / format_.kv_heads;
  p_.cache.sidecars(who.sequence, layer, sidecars_);
  p_.cache.places(who.sequence, layer, rows_);
  for (size_t i = 0; i < table.size(); ++i) {
    const int head = static_cast<int>(i / count);
    const int32_t granule = chosen.ids[i];
    if (granule == kNoGranule) {
      table[i] = {};
      continue;
    }
    const RowPlace& row = rows_[row_of(granule)];
    GranulePlace& place = table[i];
    if (chosen.slots[i] == kInPlace) {
      SPILLWAY_CHECK(row.tier == Tier::device);
      place = in_row(row, head, granule);
    } else {
      place.keys = slot(layer, head, chosen.slots[i], row.packed);
      place.values = row.packed
                         ? sidecars_[row_of(granule)] + layout.partial_bytes() + static_cast<int64_t>(head) * header
                         : place.keys + granule_tokens_ * format_.token_bytes();
    }
    place.packed = row.packed ? 1 : 0;
    place.tokens = std::min(granule_tokens_, chosen.tokens - granule * granule_tokens_);
    counts_.tokens += static_cast<uint64_t>(place.tokens);
  }
  counts_ += chosen.counts;
  counts_.tokens_seen += static_cast<uint64_t>(chosen.tokens) * format_.kv_heads;
  return chosen.fetched;
}

}  // namespace spillway
