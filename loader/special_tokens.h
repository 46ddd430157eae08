// SpecialTokens: finds the text of special tokens in a text before it is cut into pieces.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spillway {

class SpecialTokens {
 public:
  // Text and id; an empty text is never found, of equal texts the first.
  explicit SpecialTokens(std::vector<std::pair<std::string, int32_t>> tokens);

  struct Match {
    size_t at;
    size_t bytes;
    int32_t id;  // -1: none was found, `at` is the end of the text
  };
  // The first at or after `from`, and of those that begin there the longest.
  Match find(std::string_view text, size_t from) const;

 private:
  std::vector<std::pair<std::string, int32_t>> sorted_;
  std::array<bool, 256> begins_{};  // whether any token begins with the byte
};

}  // namespace spillway
