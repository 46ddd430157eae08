#include "loader/text/pair_merges.h"

#include <algorithm>
#include <bit>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

struct Symbol {
  int32_t id;  // -1: merged into the one before it
  uint32_t previous;
  uint32_t next;
};

// A pair that could merge. Stale once either side has changed.
struct Candidate {
  uint32_t rank;
  uint32_t at;  // its left symbol
  int32_t left, right, merged;

  bool operator<(const Candidate& other) const {  // for a heap with the best on top
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

PairMerges::PairMerges(size_t expected) : slots_(std::bit_ceil(std::max<size_t>(16, expected * 2))) {}

size_t PairMerges::place(uint64_t pair) const {
  uint64_t hash = (pair ^ pair >> 29) * 0x9e3779b97f4a7c15u;
  hash ^= hash >> 32;
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].pair != pair && slots_[at].pair != kEmpty) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void PairMerges::add(int32_t left, int32_t right, int32_t merged) {
  SPILLWAY_CHECK(next_rank_ < slots_.size() / 2);
  const uint64_t pair = key(left, right);
  Slot& slot = slots_[place(pair)];
  if (slot.pair == kEmpty) slot = {pair, next_rank_, merged};
  ++next_rank_;
}

void PairMerges::apply(std::span<const int32_t> symbols, std::vector<int32_t>& out) const {
  SPILLWAY_CHECK(symbols.size() < kNone);
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<Symbol> chain(count);
  std::vector<Candidate> heap;
  for (uint32_t i = 0; i < count; ++i) chain[i] = {symbols[i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1};
  const auto offer = [&](uint32_t at) {
    if (at == kNone || chain[at].next == kNone) return;
    const int32_t left = chain[at].id, right = chain[chain[at].next].id;
    const Slot& slot = slots_[place(key(left, right))];
    if (slot.pair == kEmpty) return;
    heap.push_back({slot.rank, at, left, right, slot.merged});
    std::push_heap(heap.begin(), heap.end());
  };
  for (uint32_t i = 0; i < count; ++i) offer(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = chain[best.at];
    if (left.id != best.left || left.next == kNone || chain[left.next].id != best.right) continue;
    Symbol& right = chain[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) chain[left.next].previous = best.at;
    offer(left.previous);
    offer(best.at);
  }
  for (uint32_t at = count == 0 ? kNone : 0; at != kNone; at = chain[at].next) out.push_back(chain[at].id);
}

}  // namespace spillway
