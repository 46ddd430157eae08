// ExpertCache: which experts are in the slots of one tier. The least recently used one gives way to the next; one that
// a prompt reads goes to the cold end instead, so that a long prompt passes through a few slots and what decoding uses
// stays. Computes nothing and moves nothing. Used by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace spillway {

enum class Warmth : uint8_t {
  warm,  // becomes the last to give way
  cold,  // becomes the first
};

class ExpertCache {
 public:
  // Experts are numbered from 0 to experts - 1, over all layers.
  ExpertCache(uint32_t experts, int slots);

  int slots() const { return static_cast<int>(cells_.size()); }
  // The slot where the expert is; nothing where it is not.
  std::optional<int> find(uint32_t expert) const;
  // A slot for an expert that has none: a free one, or that of the first expert to give way. Nothing where all are
  // pinned.
  std::optional<int> take(uint32_t expert, Warmth warmth);
  // It was used once more; cold: the order stays as it is.
  void touch(int slot, Warmth warmth);
  // A pinned slot is not taken. Pins are counted.
  void pin(int slot) { ++cells_[slot].pins; }
  void unpin(int slot);

 private:
  struct Cell {
    int64_t expert = kFree;
    int pins = 0;
    int colder = kEnd, warmer = kEnd;  // neighbours in the order of giving way
  };
  static constexpr int64_t kFree = -1;
  static constexpr int kEnd = -1;
  void unlink(int slot);
  void link(int slot, Warmth warmth);

  std::vector<Cell> cells_;
  std::vector<int> slot_of_;  // each expert's, or kEnd
  int coldest_ = kEnd, warmest_ = kEnd;
  int used_ = 0;  // slots that ever held one: those from here on are free
};

}  // namespace spillway
