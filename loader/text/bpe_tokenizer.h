// Byte-level BPE as GPT-2 brought it in: special tokens, then the pre-tokenizer's pieces, then merges of their bytes.
#pragma once

#include <memory>

#include "loader/tokenizer.h"

namespace spillway {

// From tokenizer.ggml.tokens, .merges, .token_type, .pre and the ids of its special tokens. Error(model) names what is
// wrong.
//
// Encoding gives the ids of Hugging Face's tokenizers for the same vocabulary. Where they take no bytes, ours does:
// bytes that are no UTF-8 form pieces of their own, so that decoding gives back exactly the text. A byte for which the
// vocabulary has no token (SmolLM2 lacks six control characters, the lead bytes of planes 4 to 11, and what UTF-8 never
// holds) leaves no trace, there as here.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(const Checkpoint& checkpoint);

}  // namespace spillway
