// AddedTokens: finds the texts of added tokens (control tokens, user-defined ones) in a text before it is cut into
// pieces.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spillway {

// The flags are those of Hugging Face's tokenizers.
struct AddedToken {
  std::string text;
  int32_t id = -1;
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // stands only where no letter, digit or _ touches it
};

class AddedTokens {
 public:
  // An empty text is never found, of equal texts the first.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  struct Match {
    size_t begin, end;  // with the white space it takes
    int32_t id;         // -1: none was found, begin and end are the end of the text
  };
  // The first that begins at or after `from`, and of those that begin there the longest. Nothing before `from` is
  // taken.
  Match find(std::string_view text, size_t from) const;

  bool empty() const { return sorted_.empty(); }

 private:
  struct Found {
    const AddedToken* token;  // null: none
    size_t at;
  };
  Found find_text(std::string_view text, size_t from) const;

  std::vector<AddedToken> sorted_;
  std::array<bool, 256> begins_{};  // whether any token begins with the byte
};

// Calls plain(part) for each part of `text` between added tokens that is not empty, and added(id) for each token, in
// order.
template <typename Plain, typename Added>
void for_each_part(const AddedTokens& tokens, std::string_view text, const Plain& plain, const Added& added) {
  for (size_t at = 0; at < text.size();) {
    const AddedTokens::Match match = tokens.find(text, at);
    if (match.begin > at) plain(text.substr(at, match.begin - at));
    if (match.id >= 0) added(match.id);
    at = match.end;
  }
}

}  // namespace spillway
