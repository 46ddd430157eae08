#include "loader/text/added_tokens.h"

#include <algorithm>

#include "loader/text/unicode.h"

namespace spillway {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : sorted_(std::move(tokens)) {
  std::erase_if(sorted_, [](const AddedToken& token) { return token.text.empty(); });
  std::stable_sort(sorted_.begin(), sorted_.end(), [](const auto& a, const auto& b) { return a.text < b.text; });
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.text == b.text; };
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end(), same), sorted_.end());
  for (const AddedToken& token : sorted_) begins_[static_cast<unsigned char>(token.text[0])] = true;
}

AddedTokens::Found AddedTokens::find_text(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    // Sorted tokens are a trie: each further byte narrows the range of those that share the prefix.
    const AddedToken* longest = nullptr;
    auto first = sorted_.begin(), last = sorted_.end();
    for (size_t depth = 0; first != last; ++depth) {
      if (first->text.size() == depth) {
        longest = &*first;
        if (++first == last) break;
      }
      if (at + depth == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[at + depth]);
      const auto byte_of = [depth](const auto& token) { return static_cast<unsigned char>(token.text[depth]); };
      first = std::partition_point(first, last, [&](const auto& token) { return byte_of(token) < byte; });
      last = std::partition_point(first, last, [&](const auto& token) { return byte_of(token) == byte; });
    }
    if (longest) return {longest, at};
  }
  return {nullptr, text.size()};
}

AddedTokens::Match AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size();) {
    const Found found = find_text(text, at);
    if (!found.token) break;
    const AddedToken& token = *found.token;
    size_t begin = found.at, end = begin + token.text.size();
    at = end;
    if (token.single_word && (ends_in_word(text.substr(0, begin)) || begins_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = from + without_white_end(text.substr(from, begin - from)).size();
    if (token.rstrip) end += white_begin(text.substr(end));
    return {begin, end, token.id};
  }
  return {text.size(), text.size(), -1};
}

}  // namespace spillway
