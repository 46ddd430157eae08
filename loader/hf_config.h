// config.json of a Hugging Face model directory, as the facts a GGUF of the same model would carry.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "loader/checkpoint.h"

namespace spillway {

// A checkpoint's `meta` from config.json, read within bounds (loader/text/json_file.h); `path` is for messages. Keys
// are GGUF's ("llama.block_count"), and beside them FAMILY.rope.style. Error(model) for what is no config, and for a
// model_type that is not known with the list of those that are.
std::map<std::string, MetaValue> read_hf_config(const nlohmann::json& config, const std::string& path);

}  // namespace spillway
