// The names of tensors in a Hugging Face model, and in a GGUF.
#pragma once

#include <optional>
#include <string>

namespace spillway {

// "model.layers.3.mlp.down_proj.weight" of the family llama: "blk.3.ffn_down.weight". A name that is not known comes
// back as it is; nothing comes back for what no text needs: tables of angles that older files carry, and the part of a
// larger model that reads images.
std::optional<std::string> gguf_name_of_hf(const std::string& name, const std::string& family);
// The other way, for messages about a tensor that is missing: the name that transformers gives it.
std::string hf_name_of_gguf(const std::string& name, const std::string& family);

}  // namespace spillway
