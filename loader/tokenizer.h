// Tokenizer: text to ids and back, from the model's own vocabulary: byte-level BPE and SentencePiece's BPE out of a
// GGUF, and what tokenizer.json of Hugging Face describes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loader/checkpoint.h"

namespace spillway {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // parse_special: the text of control tokens (<|im_start|>) stands for the token. add_bos: as the model asks, where it
  // asks. Error(model) names the file where it makes too much of a text, or a token for which the model has no row.
  virtual std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos = true) const = 0;
  // The bytes of one token; nothing for control tokens unless `special`.
  virtual std::string_view piece(int32_t id, bool special = false) const = 0;
  // Gives back the text that was encoded: without the space that some models put before it.
  std::string decode(std::span<const int32_t> ids, bool special = false) const;
  // Ids below it are the model's.
  virtual int vocab() const = 0;
  virtual int32_t bos() const = 0;            // -1: none
  virtual bool is_end(int32_t id) const = 0;  // ends generation (eos, eot, im_end)
  // Whether encode puts a space before a text, which decode takes away.
  virtual bool writes_space_first() const { return false; }
};

// Whether the model brings one.
bool has_tokenizer(const Checkpoint& checkpoint);

// Out of the GGUF's own keys, or, for a checkpoint without them, from the tokenizer.json beside its first file.
// Error(model) names an unknown model, pre-tokenizer or part with the list of known ones.
std::unique_ptr<Tokenizer> make_tokenizer(const Checkpoint& checkpoint);

// Prints token pieces as they come and never half a character: bytes of an unfinished UTF-8 sequence are held back
// until it is whole, or known to be broken (then each maximal broken part becomes U+FFFD).
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace spillway
