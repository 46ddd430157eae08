// Pretokenizer: cuts text into the pieces within which byte pairs are merged, by the pattern that the model names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;  // of <pcre2.h>, for 8-bit code units

namespace spillway {

class Pretokenizer {
 public:
  // `name`: tokenizer.ggml.pre. Error(model) begins with `path` and lists the known names.
  Pretokenizer(const std::string& name, const std::string& path);

  // Appends the pieces of `text`, which together are all of it. A run of bytes that are no UTF-8 is a piece of its own.
  // Time is linear in the text. Thread-safe.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

  // A piece that is a token as a whole is that token, whatever the merges say.
  bool ignores_merges() const { return ignores_merges_; }
  // Whether a text begins with the bos token where the file does not say.
  bool adds_bos() const { return adds_bos_; }

 private:
  const pcre2_real_code_8* code_;  // compiled once for the process
  bool ignores_merges_;
  bool adds_bos_;
};

}  // namespace spillway
