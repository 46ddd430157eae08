// Split: one step of a pre-tokenizer, as Hugging Face's tokenizers cut text at the matches of a pattern.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "loader/text/regex.h"

namespace spillway {

enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class Split {
 public:
  // At the matches of `regex`, or (inverted) at what lies between them.
  Split(std::shared_ptr<const Regex> regex, SplitBehavior behavior, bool invert = false);
  // At every occurrence of a text that is not empty.
  Split(std::string literal, SplitBehavior behavior, bool invert = false);

  // Appends the pieces of `text`, which is well-formed UTF-8, in order; views of it, none empty. But for `removed` they
  // are together all of it.
  void apply(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  template <typename Take>
  void ranges(std::string_view text, const Take& take) const;

  std::shared_ptr<const Regex> regex_;
  std::string literal_;
  SplitBehavior behavior_;
  bool invert_;
};

}  // namespace spillway
