#include "prefetch/kv_feed.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace spillway {

KvFeed::KvFeed(KvCache& cache, std::span<std::byte> ring, int lookahead, CopyLane* fetch_lane, CopyLane* spill_lane,
               std::vector<int> windows)
    : cache_(cache),
      fetch_lane_(fetch_lane),
      spill_lane_(spill_lane),
      windows_(std::move(windows)),
      group_bytes_(ring.size() / kGroupsInRing),
      feed_(ring, lookahead, [this](uint32_t item, std::byte* place, std::vector<Event> after) {
        return start(item, place, std::move(after));
      }) {}

void KvFeed::begin_pass(std::span<const SequenceId> sequences, const KvReading& reading) {
  const bool same = std::equal(sequences.begin(), sequences.end(), sequences_.begin(), sequences_.end()) &&
                    reading == reading_ && version_ == cache_.version();
  if (same && !planned_.empty()) return;
  end();
  sequences_.assign(sequences.begin(), sequences.end());
  reading_ = reading;
  version_ = cache_.version();
  for (int layer = 0; layer < cache_.layout().layers; ++layer) {
    if (only_checked(layer) && !reading.checks_all && layer != reading.checked_layer) continue;
    for (const SequenceId sequence : sequences) {
      plan_layer(sequence, layer, false);
      if (reading.adds_up && cache_.layout().chooses(layer)) plan_layer(sequence, layer, true);
    }
  }
}

// The span of the oldest position that the pass's first query sees: later ones see less far back.
int KvFeed::first_span(SequenceId sequence, int layer) const {
  const int window = narrower(windows_[layer], reading_.window);
  return window == 0 ? 0 : std::max(0, cache_.tokens(sequence) + 1 - window) / kSpanTokens;
}

void KvFeed::plan_layer(SequenceId sequence, int layer, bool again) {
  const int rows = cache_.rows(sequence, layer);
  const int spans = (rows + kPagesPerSpan - 1) / kPagesPerSpan;
  const int first = first_span(sequence, layer);
  PlannedGroup group{.sequence = sequence, .layer = layer, .first_span = first, .rows = {}, .again = again};
  uint64_t bytes = 0;  // of the group
  const auto close = [&](int next_span, bool last) {
    group.last_span = next_span;
    group.last = last;
    planned_.push_back(std::move(group));
    const uint32_t item = first_item_ + static_cast<uint32_t>(planned_.size()) - 1;
    group = {.sequence = sequence, .layer = layer, .first_span = next_span, .rows = {}, .again = again};
    if (bytes > 0) feed_.plan(item, bytes);
    bytes = 0;
  };
  for (int span = first; span < spans; ++span) {
    std::vector<PlannedRow> outside;
    uint64_t outside_bytes = 0;
    for (int row = span * kPagesPerSpan; row < std::min(rows, (span + 1) * kPagesPerSpan); ++row) {
      const RowPlace place = cache_.place(sequence, layer, row);
      if (place.tier == Tier::device) continue;
      outside.push_back({row, outside_bytes});
      outside_bytes += place.bytes;
    }
    if (!group.rows.empty() && bytes + outside_bytes > group_bytes_) close(span, false);
    for (const PlannedRow& row : outside) group.rows.push_back({row.row, bytes + row.offset});
    bytes += outside_bytes;
  }
  close(spans, true);
}

Event KvFeed::start(uint32_t item, std::byte* place, std::vector<Event> after) {
  SPILLWAY_CHECK(fetch_lane_ != nullptr);
  const PlannedGroup& group = planned_[item - first_item_];
  Moves moves;
  for (const PlannedRow& planned : group.rows) {
    const RowPlace row = cache_.place(group.sequence, group.layer, planned.row);
    SPILLWAY_CHECK(row.tier != Tier::device);
    if (!row.written.done()) after.push_back(row.written);
    std::byte* to = place + planned.offset;
    if (row.tier == Tier::host) {
      moves.link.push_back({to, row.data, row.bytes});
      continue;
    }
    DiskMove* last = moves.disk.empty() ? nullptr : &moves.disk.back();
    if (last != nullptr && last->offset + last->bytes == row.file_offset && last->memory + last->bytes == to) {
      last->bytes += row.bytes;
    } else {
      moves.disk.push_back({cache_.pools().file, row.file_offset, row.bytes, to, 0});
    }
  }
  const Cause cause = only_checked(group.layer) ? Cause::kv_check : Cause::kv_fetch;
  const Event end = fetch_lane_->to_device(std::move(moves), std::move(after), cause);
  for (const PlannedRow& planned : group.rows) cache_.reading(group.sequence, group.layer, planned.row, end);
  return end;
}

int KvFeed::groups(int layer, SequenceId sequence) const {
  const auto other = std::find_if(planned_.begin(), planned_.end(), [&](const PlannedGroup& group) {
    return group.layer != layer || group.sequence != sequence || group.again != planned_.front().again;
  });
  return static_cast<int>(other - planned_.begin());
}

KvGroup KvFeed::next(int layer, SequenceId sequence, int tokens) {
  SPILLWAY_CHECK(groups(layer, sequence) > 0);
  const PlannedGroup group = std::move(planned_.front());
  planned_.pop_front();
  ++first_item_;
  KvGroup result;
  if (!group.rows.empty()) result.lease = feed_.acquire();
  const int rows = page_rows(tokens);
  const int last_span = group.last ? (rows + kPagesPerSpan - 1) / kPagesPerSpan : group.last_span;
  auto outside = group.rows.begin();
  for (int span = group.first_span; span < last_span; ++span) {
    KvSpan view{
        .rows = {}, .first_position = span * kSpanTokens, .tokens = std::min(kSpanTokens, tokens - span * kSpanTokens)};
    for (int i = 0; i < kPagesPerSpan && span * kPagesPerSpan + i < rows; ++i) {
      const int row = span * kPagesPerSpan + i;
      const RowPlace place = cache_.place(sequence, layer, row);
      if (place.packed) view.packed |= 1u << i;
      if (outside != group.rows.end() && outside->row == row) {
        view.rows[i] = result.lease.data() + outside->offset;
        ++outside;
      } else {
        SPILLWAY_CHECK(place.tier == Tier::device);
        view.rows[i] = place.data;
      }
    }
    result.spans.push_back(view);
  }
  return result;
}

void KvFeed::settle(int layer, Stream& compute) {
  for (const Demotion& demotion : cache_.settle(layer)) {
    SPILLWAY_CHECK(spill_lane_ != nullptr);
    std::vector<Event> starts = demotion.after;
    starts.push_back(compute.record());
    const uint64_t bytes = demotion.to.bytes;
    std::byte* from = const_cast<std::byte*>(demotion.from);  // a DiskMove's memory is written by reads only
    Moves moves;
    if (demotion.to.tier == Tier::host) {
      moves.link.push_back({demotion.to.data, from, bytes});
    } else {
      moves.disk.push_back({cache_.pools().file, demotion.to.file_offset, bytes, from, 0});
    }
    const Event end = spill_lane_->from_device(std::move(moves), std::move(starts), Cause::kv_spill);
    cache_.moved(demotion, end);
  }
}

void KvFeed::end() {
  feed_.drop();
  first_item_ += static_cast<uint32_t>(planned_.size());
  planned_.clear();
  sequences_.clear();
}

}  // namespace spillway
