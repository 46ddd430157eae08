// SpmMerges: SentencePiece's BPE (arXiv 1808.06226): of all neighbours that are a piece together, those of the best
// score merge first, the leftmost of equals.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loader/text/text_ids.h"

namespace spillway {

class SpmMerges {
 public:
  // An id's piece, its score, whether it stands only between others (an unused piece ends as the pieces it came from).
  struct Piece {
    std::string_view text;
    int32_t id;
    float score;
    bool unused;
  };
  // The texts are not copied. Ids are below `vocab`; scores are finite.
  SpmMerges(const std::vector<Piece>& pieces, size_t vocab);

  // Appends to `ids` the pieces of a word. For characters that are in no piece, lacking(bytes) is called in their
  // place.
  template <typename Lacking>
  void apply(std::string_view word, std::vector<int32_t>& ids, const Lacking& lacking) const {
    for (const std::string_view part : merged(word)) {
      const int32_t id = ids_.find(part);
      if (id >= 0) {
        ids.push_back(id);
      } else {
        lacking(part);
      }
    }
  }

 private:
  std::vector<std::string_view> merged(std::string_view word) const;

  TextIds ids_;
  std::vector<float> scores_;
  std::vector<bool> unused_;
};

}  // namespace spillway
