// What a Hugging Face folder says about its special tokens, beside the list of added ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "loader/text/json_file.h"

namespace spillway {

struct JsonSpecial {
  std::vector<int32_t> before;  // a text begins with these (post_processor; add_bos_token where there is none)
  int32_t bos = -1;
  std::vector<int32_t> ends;   // of config.json, generation_config.json and tokenizer_config.json
  std::vector<int32_t> named;  // bos, eos, unk and pad of tokenizer_config.json or special_tokens_map.json
};

// `find`: the id of a token's text, -1 for none; ids are below `vocab`. Error(model).
JsonSpecial read_json_special(const std::filesystem::path& folder, const TokenizerJson& file, int32_t vocab,
                              const std::function<int32_t(const std::string&)>& find);

// A special token of tokenizer_config.json: a text, or an added token's content; empty where there is none.
std::string special_text(const nlohmann::json& config, const char* key);

}  // namespace spillway
