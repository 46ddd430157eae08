// PairMerges: byte-pair encoding (arXiv 1508.07909) on ids: the pair of lowest rank merges first, the leftmost of
// equals.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace spillway {

class PairMerges {
 public:
  explicit PairMerges(size_t expected);

  // Pairs are added in rank order; a pair added again keeps its first rank.
  void add(int32_t left, int32_t right, int32_t merged);

  // Appends to `out` what `symbols` merge to. n log n in the number of symbols, which is below 2^32.
  void apply(std::span<const int32_t> symbols, std::vector<int32_t>& out) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    uint32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint64_t kEmpty = UINT64_MAX;  // no pair: ids are not negative

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t place(uint64_t pair) const;  // of the pair, or of the empty slot where it would be

  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  uint32_t next_rank_ = 0;
};

}  // namespace spillway
