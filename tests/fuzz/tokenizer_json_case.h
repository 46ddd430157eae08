// One case of tokenizer.json: all that the loader does with one it does not know.
#pragma once

#include <cstddef>
#include <span>

namespace spillway {

// The bytes are tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json, vocab.json and
// merges.txt, with zeros between them; an empty one is not there, and later ones may be left out. Renders the folder's
// chat template, opens its tokenizer and tokenises texts. Returns true when it could be opened. Throws only what the
// loader must not throw: anything but Error(model).
bool try_tokenizer_json(std::span<const std::byte> bytes);

}  // namespace spillway
