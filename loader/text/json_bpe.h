// The BPE model of a tokenizer.json: pieces to ids.
#pragma once

#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "loader/text/json_file.h"
#include "loader/text/pair_merges.h"
#include "loader/text/text_ids.h"
#include "loader/text/word_cache.h"

namespace spillway {

class JsonBpe {
 public:
  // `byte_level`: pieces are bytes in the alphabet of byte-level BPE; else characters, those that the vocabulary lacks
  // by byte fallback or as the unknown token. `file` outlives this. Error(model).
  JsonBpe(const TokenizerJson& file, bool byte_level);

  // Appends the ids of a piece. Its bytes outlive `cache`.
  void append(std::string_view piece, WordCache& cache, std::vector<int32_t>& ids) const;

  int32_t find(std::string_view text) const { return ids_.find(text); }

 private:
  void read_merges(const TokenizerJson& file);
  void merge(std::string_view word, std::vector<int32_t>& ids) const;
  void byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void character_symbols(std::string_view word, std::vector<int32_t>& symbols) const;

  bool byte_level_;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  bool words_apart_ = true;  // no merge reaches over the beginning of a word (words.h)
  int32_t unknown_ = -1;
  TextIds ids_;
  std::unique_ptr<TextIds> whole_;  // byte-level: tokens by their bytes, where merges are ignored
  std::string whole_bytes_;
  std::unique_ptr<PairMerges> merges_;
  std::array<int32_t, 256> byte_ids_{};  // -1: the vocabulary lacks the byte
};

}  // namespace spillway
