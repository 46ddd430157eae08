// config.json of a Hugging Face model directory, as the facts a GGUF of the same model would carry.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "loader/checkpoint.h"

namespace spillway {

// A matrix of every layer that has a bias.
struct HfBias {
  std::string part;  // as GGUF calls it: "attn_q"
  std::string why;   // "attention_bias is true"
};

struct HfConfig {
  std::map<std::string, MetaValue> meta;     // keys are GGUF's ("llama.block_count"), and beside them FAMILY.rope.style
  std::map<std::string, std::string> names;  // what config.json calls them, for messages
  std::vector<HfBias> biases;                // and no others
};

// From config.json, read within bounds (loader/text/json_file.h); `path` is for messages. A key that is left out means
// what it means to transformers (loader/hf_types.h). Error(model) for what is no config, and for a model_type that is
// not known with the list of those that are.
HfConfig read_hf_config(const nlohmann::json& config, const std::string& path);

}  // namespace spillway
