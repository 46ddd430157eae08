#include "loader/special_tokens.h"

#include <algorithm>

namespace spillway {

SpecialTokens::SpecialTokens(std::vector<std::pair<std::string, int32_t>> tokens) : sorted_(std::move(tokens)) {
  std::erase_if(sorted_, [](const auto& token) { return token.first.empty(); });
  std::sort(sorted_.begin(), sorted_.end());
  const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end(), same), sorted_.end());
  for (const auto& [text, id] : sorted_) begins_[static_cast<unsigned char>(text[0])] = true;
}

SpecialTokens::Match SpecialTokens::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    // Sorted tokens are a trie: each further byte narrows the range of those that share the prefix.
    Match longest{at, 0, -1};
    auto first = sorted_.begin(), last = sorted_.end();
    for (size_t depth = 0; first != last; ++depth) {
      if (first->first.size() == depth) {
        longest = {at, depth, first->second};
        if (++first == last) break;
      }
      if (at + depth == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[at + depth]);
      const auto byte_of = [depth](const auto& token) { return static_cast<unsigned char>(token.first[depth]); };
      first = std::partition_point(first, last, [&](const auto& token) { return byte_of(token) < byte; });
      last = std::partition_point(first, last, [&](const auto& token) { return byte_of(token) == byte; });
    }
    if (longest.id >= 0) return longest;
  }
  return {text.size(), 0, -1};
}

}  // namespace spillway
