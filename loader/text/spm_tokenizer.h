// SentencePiece's BPE with scores and byte fallback, as GGUF's tokenizer model "llama" holds it (Llama 2, Mistral,
// Phi-3, Gemma).
#pragma once

#include <memory>

#include "loader/tokenizer.h"

namespace spillway {

// From tokenizer.ggml.tokens, .scores, .token_type, .add_space_prefix and the ids of its special tokens. Error(model)
// names what is wrong.
//
// Encoding gives the ids of the sentencepiece library for the same vocabulary; around special tokens, and for a text's
// own U+2581 among spaces, those of Hugging Face's tokenizers (each stretch between special tokens has the space prefix
// of its own). Bytes that are no UTF-8 go by byte fallback, where sentencepiece writes U+FFFD. A text's own U+2581
// comes back as a space, there as here.
std::unique_ptr<Tokenizer> make_spm_tokenizer(const Checkpoint& checkpoint);

}  // namespace spillway
