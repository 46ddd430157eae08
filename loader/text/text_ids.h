// TextIds: a hash table from texts to ids, quick to build: a vocabulary is one at every start.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/check.h"

namespace spillway {

class TextIds {
 public:
  explicit TextIds(size_t capacity) : capacity_(capacity), slots_(std::bit_ceil(std::max<size_t>(16, capacity * 2))) {}

  // The text is not copied. A text added again keeps its first id.
  void add(std::string_view text, int32_t id) {
    SPILLWAY_CHECK(id >= 0 && count_ < capacity_);
    const uint64_t hash = XXH3_64bits(text.data(), text.size());
    Slot& slot = slots_[place(text, hash)];
    if (slot.id < 0) slot = {text, static_cast<uint32_t>(hash >> 32), id};
    ++count_;
  }

  // -1 when there is none.
  int32_t find(std::string_view text) const { return slots_[place(text, XXH3_64bits(text.data(), text.size()))].id; }

 private:
  struct Slot {
    std::string_view text;
    uint32_t tag = 0;  // the hash's upper half, compared before the text
    int32_t id = -1;
  };

  // Of the text, or of the empty slot where it would be.
  size_t place(std::string_view text, uint64_t hash) const {
    const auto tag = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].id >= 0 && (slots_[at].tag != tag || slots_[at].text != text))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  size_t capacity_;
  size_t count_ = 0;
  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
};

}  // namespace spillway
