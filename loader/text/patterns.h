// The pre-tokenizers that GGUF files name (tokenizer.ggml.pre), as lists of patterns.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "loader/text/split.h"

namespace spillway {

struct NamedPretokenizer {
  const std::vector<Split>* splits;  // one after the other, each on the pieces of the one before it
  bool ignores_merges;               // a piece that is a token as a whole is that token, whatever the merges say
  bool adds_bos;                     // a text begins with the bos token where the file does not say
};

// Compiled once for the process, as it is first asked for. Error(model) begins with `path` and lists the known names.
NamedPretokenizer named_pretokenizer(const std::string& name, const std::string& path);

// Of GPT-2, which ByteLevel of Hugging Face's tokenizers has built in; compiled once for the process.
const Split& gpt2_split();

}  // namespace spillway
