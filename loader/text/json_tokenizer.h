// The tokenizer of a Hugging Face folder: tokenizer.json (or vocab.json with merges.txt), with what
// tokenizer_config.json, generation_config.json and config.json say about its special tokens.
#pragma once

#include <filesystem>
#include <memory>

#include "loader/tokenizer.h"

namespace spillway {

bool has_json_tokenizer(const std::filesystem::path& folder);
// The one of them that has the vocabulary.
std::filesystem::path json_tokenizer_file(const std::filesystem::path& folder);

// BPE, byte-level or with byte fallback. Error(model) names the file, the part of it, and what is not known with the
// list of what is.
//
// Encoding gives the ids of Hugging Face's tokenizers, with the special tokens that its post-processor puts before a
// text (those it puts after one are left out: a text is to be continued). Bytes that are no UTF-8 go to the vocabulary
// as they are.
std::unique_ptr<Tokenizer> read_json_tokenizer(const std::filesystem::path& folder);

}  // namespace spillway
