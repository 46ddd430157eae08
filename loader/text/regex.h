// Regex: a regular expression over UTF-8, ours or out of a file, in the dialect of Hugging Face's tokenizers.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;  // of <pcre2.h>, for 8-bit code units

namespace spillway {

class Regex {
 public:
  // `pattern` is Oniguruma's dialect, as tokenizer.json writes it, in the part of it that the families use.
  // Error(model) begins with `where` and names what is not known. `trusted`: the pattern is ours and linear, so that no
  // limit on the steps of a match is wanted; else a pattern that takes too long, in one match or in all of a text's, is
  // refused as it is met.
  Regex(const std::string& pattern, const std::string& where, bool trusted = false);

  // Calls take(begin, end, is_match) for every match in `text`, which is well-formed UTF-8, and for what lies between,
  // in order; empty ranges are left out, an empty match only cuts. Thread-safe.
  void for_each(std::string_view text, const std::function<void(size_t, size_t, bool)>& take) const;

  const std::string& pattern() const { return pattern_; }

 private:
  std::string pattern_, where_;
  std::shared_ptr<const pcre2_real_code_8> code_;
  bool trusted_;
};

}  // namespace spillway
