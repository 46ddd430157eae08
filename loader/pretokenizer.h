// Pretokenizer: cuts text into the pieces within which byte pairs are merged, by the pattern that the model names.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

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
  struct FreeCode {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };

  void split_valid(std::string_view text, pcre2_match_data* match, pcre2_match_context* limits,
                   std::vector<std::string_view>& pieces) const;

  std::unique_ptr<pcre2_code, FreeCode> code_;
  bool ignores_merges_ = false;
  bool adds_bos_ = false;
};

}  // namespace spillway
