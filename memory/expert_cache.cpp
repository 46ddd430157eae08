#include "memory/expert_cache.h"

#include "kernels/check.h"

namespace spillway {

ExpertCache::ExpertCache(uint32_t experts, int slots) : cells_(static_cast<size_t>(slots)), slot_of_(experts, kEnd) {}

std::optional<int> ExpertCache::find(uint32_t expert) const {
  const int slot = slot_of_[expert];
  return slot == kEnd ? std::nullopt : std::optional<int>(slot);
}

std::optional<int> ExpertCache::take(uint32_t expert, Warmth warmth) {
  SPILLWAY_CHECK(slot_of_[expert] == kEnd);
  int slot = coldest_;
  if (used_ < slots()) {
    slot = used_++;
  } else {
    while (slot != kEnd && cells_[slot].pins > 0) slot = cells_[slot].warmer;
    if (slot == kEnd) return std::nullopt;
    slot_of_[static_cast<size_t>(cells_[slot].expert)] = kEnd;
    unlink(slot);
  }
  cells_[slot].expert = expert;
  slot_of_[expert] = slot;
  link(slot, warmth);
  return slot;
}

void ExpertCache::touch(int slot, Warmth warmth) {
  if (warmth == Warmth::cold) return;
  unlink(slot);
  link(slot, warmth);
}

void ExpertCache::unpin(int slot) {
  SPILLWAY_CHECK(cells_[slot].pins > 0);
  --cells_[slot].pins;
}

void ExpertCache::unlink(int slot) {
  const Cell& cell = cells_[slot];
  (cell.colder == kEnd ? coldest_ : cells_[cell.colder].warmer) = cell.warmer;
  (cell.warmer == kEnd ? warmest_ : cells_[cell.warmer].colder) = cell.colder;
}

void ExpertCache::link(int slot, Warmth warmth) {
  Cell& cell = cells_[slot];
  const bool warm = warmth == Warmth::warm;
  cell.colder = warm ? warmest_ : kEnd;
  cell.warmer = warm ? kEnd : coldest_;
  (cell.colder == kEnd ? coldest_ : cells_[cell.colder].warmer) = slot;
  (cell.warmer == kEnd ? warmest_ : cells_[cell.warmer].colder) = slot;
}

}  // namespace spillway
