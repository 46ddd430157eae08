#include "tests/support/synthetic_vocab.h"

#include <string_view>

#include "kernels/check.h"

namespace spillway {
namespace {

// English letters, commonest first: a small vocabulary then holds the merges that texts use.
constexpr std::string_view kLetters = "etaoinshrdlcumwfgypbvkjxqz";
constexpr std::string_view kSpace = "\u0120";  // byte 0x20 as GPT-2 prints it

std::string utf8(uint32_t code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// The printable stand-in of a byte (GPT-2's encoder): itself where it is a visible Latin-1 character, else the next
// free code point from 256.
std::string stand_in(int byte) {
  uint32_t next = 256;
  for (int b = 0;; ++b) {
    const bool visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const uint32_t code = visible ? static_cast<uint32_t>(b) : next++;
    if (b == byte) return utf8(code);
  }
}

}  // namespace

SyntheticVocab make_synthetic_vocab(int size) {
  SPILLWAY_CHECK(size >= SyntheticVocab::kSmallest);
  SyntheticVocab vocab;
  vocab.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocab.types.assign(3, 3);
  for (int byte = 0; byte < 256; ++byte) vocab.tokens.push_back(stand_in(byte));
  // Each token of the growing list, in turn, is lengthened by every letter. The way a string was made is the string
  // itself, so none comes twice.
  std::vector<std::string> stems{std::string(kSpace)};
  for (char letter : kLetters) stems.emplace_back(1, letter);
  for (size_t i = 0; static_cast<int>(vocab.tokens.size()) < size; ++i) {
    for (char letter : kLetters) {
      if (static_cast<int>(vocab.tokens.size()) == size) break;
      vocab.merges.push_back(stems[i] + ' ' + letter);
      vocab.tokens.push_back(stems[i] + letter);
      stems.push_back(vocab.tokens.back());
    }
  }
  vocab.types.resize(vocab.tokens.size(), 1);
  return vocab;
}

}  // namespace spillway
