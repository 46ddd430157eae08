// WordCache: what the words of one text became, so that each is merged once.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace spillway {

// Keys view the caller's text, which outlives the cache.
class WordCache {
 public:
  // Appends to `ids` what merge(word, ids) would append.
  template <typename Merge>
  void append(std::string_view word, std::vector<int32_t>& ids, const Merge& merge) {
    const auto known = known_.find(word);
    if (known != known_.end()) {
      const auto begin = ids_.begin() + known->second.begin;
      ids.insert(ids.end(), begin, begin + known->second.count);
      return;
    }
    const size_t before = ids.size();
    merge(word, ids);
    if (word.size() > kLongestWord || known_.size() == kMostWords) return;
    const auto begin = static_cast<uint32_t>(ids_.size());
    ids_.insert(ids_.end(), ids.begin() + static_cast<ptrdiff_t>(before), ids.end());
    known_.emplace(word, Range{begin, static_cast<uint32_t>(ids.size() - before)});
  }

 private:
  static constexpr size_t kMostWords = 1 << 16;
  static constexpr size_t kLongestWord = 64;  // bytes

  struct Range {
    uint32_t begin, count;
  };
  std::unordered_map<std::string_view, Range> known_;
  std::vector<int32_t> ids_;
};

}  // namespace spillway
