// TableTokenizer: what all tokenizers share, the way back from ids to bytes.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "loader/tokenizer.h"

namespace spillway {

class TableTokenizer : public Tokenizer {
 public:
  std::string_view piece(int32_t id, bool special) const override {
    if (id < 0 || id >= vocab() || (hidden_[static_cast<size_t>(id)] && !special)) return {};
    return std::string_view(bytes_).substr(starts_[static_cast<size_t>(id)],
                                           starts_[static_cast<size_t>(id) + 1] - starts_[static_cast<size_t>(id)]);
  }
  int vocab() const override { return static_cast<int>(hidden_.size()); }
  int32_t bos() const override { return bos_; }
  bool is_end(int32_t id) const override { return id >= 0 && id < vocab() && ends_[static_cast<size_t>(id)]; }

 protected:
  // The next id's bytes; `hidden`: shown only where special tokens are.
  void add_token(std::string_view bytes, bool hidden) {
    bytes_ += bytes;
    starts_.push_back(bytes_.size());
    hidden_.push_back(hidden);
    ends_.push_back(false);
  }
  void set_end(int32_t id) { ends_[static_cast<size_t>(id)] = true; }

  int32_t bos_ = -1;

 private:
  std::string bytes_;  // of all tokens, one after the other
  std::vector<size_t> starts_{0};
  std::vector<bool> hidden_, ends_;
};

// Whether a token of this text ends a turn or a text in the models we know, for files that name only one of them.
bool ends_a_turn(std::string_view text);

// Of a text to be tokenised. Error(usage) when it is too long.
void check_text_size(std::string_view text);

}  // namespace spillway
