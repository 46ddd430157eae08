// Where a checkpoint keeps its chat template and the special tokens that it names.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "loader/checkpoint.h"

namespace spillway {

// Empty when the checkpoint has none. Error(model).
std::string chat_template_source(const Checkpoint& checkpoint);

// bos_token, eos_token, unk_token and pad_token with their texts, those that there are.
std::vector<std::pair<std::string, std::string>> chat_special_tokens(const Checkpoint& checkpoint);

}  // namespace spillway
