// Pieces: a text cut up on its way to the vocabulary. Steps of a pre-tokenizer cut further, or write a piece anew.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "loader/text/split.h"

namespace spillway {

struct Pieces {
  std::vector<std::string_view> list;
  std::deque<std::string> written;  // what no longer is a part of the text; its places never move

  // What was written before stays: a cache may view it.
  void reset(std::string_view text) { list.assign(text.empty() ? 0 : 1, text); }
  // Cuts every piece.
  void apply(const Split& split) {
    spare_.clear();
    for (const std::string_view piece : list) split.apply(piece, spare_);
    list.swap(spare_);
  }

 private:
  std::vector<std::string_view> spare_;
};

}  // namespace spillway
