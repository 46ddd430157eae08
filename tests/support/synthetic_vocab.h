// SyntheticVocab: a valid byte-level BPE vocabulary of any size, made by rule. Every text can be tokenised with it: the
// 256 bytes are tokens, and the rest are runs of lower-case letters, with and without a leading space, each made by one
// merge.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spillway {

struct SyntheticVocab {
  static constexpr int32_t kUnknown = 0;  // <|endoftext|>
  static constexpr int32_t kBos = 1;      // <|im_start|>
  static constexpr int32_t kEos = 2;      // <|im_end|>
  static constexpr int kSmallest = 259;   // the specials and the bytes

  std::vector<std::string> tokens;  // bytes as GPT-2 prints them
  std::vector<int32_t> types;       // 1 normal, 3 control
  std::vector<std::string> merges;  // "left right", first is best
};

// size >= SyntheticVocab::kSmallest.
SyntheticVocab make_synthetic_vocab(int size);

}  // namespace spillway
