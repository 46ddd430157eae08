// The vocabulary of a GGUF file, checked: what byte-level BPE and SPM read alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loader/checkpoint.h"
#include "loader/text/added_tokens.h"

namespace spillway {

// llama.cpp's token types, as tokenizer.ggml.token_type holds them.
enum class TokenType : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct GgufVocabulary {
  const Checkpoint& checkpoint;            // which outlives it
  const std::vector<std::string>& tokens;  // of the checkpoint
  std::vector<TokenType> types;            // one for each token
  int32_t bos = -1;
  std::vector<int32_t> ends;  // tokens that end a generation

  bool hidden(size_t id) const { return types[id] == TokenType::control || types[id] == TokenType::unknown; }
  struct Added {
    bool control = false;       // those too that are hidden
    bool rstrip_turns = false;  // of these, <|...|> but <|endoftext|> takes the white space after it
    bool marked = false;        // spaces of user-defined ones as SentencePiece's marks, which GGUF writes out
  };
  // User-defined tokens, and what `which` asks for.
  AddedTokens added(const Added& which) const;
  // The id under `key`, -1 where the key is missing. Error(model) when there is no such token.
  int32_t id_of(const std::string& key) const;
  [[noreturn]] void refuse(const std::string& message) const;
};

// Reads tokenizer.ggml.tokens, .token_type and the ids of special tokens. Error(model) names what is wrong.
GgufVocabulary read_gguf_vocabulary(const Checkpoint& checkpoint);

}  // namespace spillway
