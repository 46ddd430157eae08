#include "loader/chat_template_source.h"

#include <filesystem>

#include "loader/text/json_file.h"
#include "loader/text/json_special.h"

namespace spillway {
namespace {

std::filesystem::path folder_of(const Checkpoint& checkpoint) {
  return std::filesystem::path(checkpoint.path()).parent_path();
}

bool is_gguf(const Checkpoint& checkpoint) { return checkpoint.meta.contains("tokenizer.ggml.model"); }

// chat_template of tokenizer_config.json: a text, or a list of named ones, of which "default" is meant.
std::string configured(const nlohmann::json& config) {
  if (!config.is_object() || !config.contains("chat_template")) return "";
  const nlohmann::json& found = config["chat_template"];
  if (found.is_string()) return found.get<std::string>();
  if (!found.is_array()) return "";
  for (const nlohmann::json& entry : found) {
    if (special_text(entry, "name") == "default") return special_text(entry, "template");
  }
  return "";
}

}  // namespace

std::string chat_template_source(const Checkpoint& checkpoint) {
  if (is_gguf(checkpoint) || checkpoint.meta.contains("tokenizer.chat_template")) {
    return checkpoint.text("tokenizer.chat_template", "");
  }
  std::error_code ignored;
  const std::filesystem::path file = folder_of(checkpoint) / "chat_template.jinja";
  if (std::filesystem::exists(file, ignored)) return read_model_text(file);
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    std::string source = configured(read_small_json(folder_of(checkpoint) / name));
    if (!source.empty()) return source;
  }
  return "";
}

std::vector<std::pair<std::string, std::string>> chat_special_tokens(const Checkpoint& checkpoint) {
  std::vector<std::pair<std::string, std::string>> result;
  constexpr std::pair<const char*, const char*> kKeys[] = {
      {"bos", "bos"}, {"eos", "eos"}, {"unknown", "unk"}, {"padding", "pad"}};
  const auto add = [&](const char* key, std::string text) {
    if (!text.empty()) result.emplace_back(std::string(key) + "_token", std::move(text));
  };
  if (is_gguf(checkpoint)) {
    const auto* tokens = checkpoint.strings("tokenizer.ggml.tokens");
    for (const auto& [from, to] : kKeys) {
      const int64_t id = checkpoint.integer(std::string("tokenizer.ggml.") + from + "_token_id", -1);
      if (tokens && id >= 0 && id < static_cast<int64_t>(tokens->size())) add(to, (*tokens)[static_cast<size_t>(id)]);
    }
    return result;
  }
  const nlohmann::json config = read_small_json(folder_of(checkpoint) / "tokenizer_config.json");
  const nlohmann::json map = read_small_json(folder_of(checkpoint) / "special_tokens_map.json");
  for (const auto& [from, to] : kKeys) {
    const std::string key = std::string(to) + "_token";
    std::string text = special_text(config, key.c_str());
    add(to, text.empty() ? special_text(map, key.c_str()) : text);
  }
  return result;
}

}  // namespace spillway
