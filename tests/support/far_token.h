// A Hugging Face directory whose tokenizer knows a token that the model has no row for, as Gemma 3's does.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace spillway {

inline constexpr int kFarToken = 330;  // "<far>"; the model has 320 rows

// The tiny llama of tests/runtime/data/hf (`models`), copied into `folder`, with a tokenizer of single characters.
inline std::string write_far_token_model(const std::filesystem::path& models, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(models / "llama" / name, folder / name,
                               std::filesystem::copy_options::overwrite_existing);
  }
  nlohmann::json vocab{{"\u0120", 0}, {"\u010a", 1}};  // space and end of line, as byte-level BPE writes them
  for (char c = '!'; c <= '~'; ++c) vocab[std::string(1, c)] = 2 + c - '!';
  const nlohmann::json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const nlohmann::json far{{"id", kFarToken}, {"content", "<far>"}, {"special", false}, {"normalized", false}};
  const nlohmann::json tokenizer{{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}},
                                 {"added_tokens", nlohmann::json::array({far})},
                                 {"pre_tokenizer", byte_level},
                                 {"decoder", byte_level}};
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
  return folder.string();
}

}  // namespace spillway
