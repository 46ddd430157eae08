#include "loader/hf_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "loader/hf_config.h"
#include "loader/hf_names.h"
#include "loader/printable.h"
#include "loader/safetensors.h"
#include "loader/text/json_file.h"

namespace spillway {
namespace {

constexpr size_t kShardsLimit = 4096;

// The files named by model.safetensors.index.json, in the order of their names, and which of them holds a tensor.
std::map<std::string, std::string> read_index(const std::string& path) {
  const nlohmann::json index = read_small_json(path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    throw Error(ErrorKind::model, fmt::format("{}: no JSON object with a weight_map", path));
  }
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name.find('/') != std::string::npos || name == "..") {
      throw Error(ErrorKind::model, fmt::format("{}: the tensor {} is in {}, which is no file's name beside it", path,
                                                printable(tensor), printable(file.dump())));
    }
    file_of[tensor] = name;
  }
  return file_of;
}

bool is_there(const std::string& path) {
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  if (error) throw Error(ErrorKind::model, fmt::format("cannot open {}: {}", path, error.message()));
  return there;
}

// What is in the directory, and is not model.safetensors.
[[noreturn]] void refuse_without_weights(const std::string& directory) {
  std::string others;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors")) {
      others = fmt::format("; {} is there, which has another name", printable(name));
      break;
    }
    if (!name.ends_with(".bin") && !name.ends_with(".pth")) continue;
    others = fmt::format(
        "; weights of PyTorch ({}) are not read: save_pretrained(FOLDER, safe_serialization=True) of "
        "transformers writes safetensors",
        printable(name));
  }
  throw Error(ErrorKind::model,
              fmt::format("{}: no model.safetensors, and no model.safetensors.index.json{}", directory, others));
}

// The names of shards without an index, all of them by what the first one's name says; none where there are none.
std::set<std::string> shards_without_index(const std::string& directory) {
  constexpr std::string_view kBegin = "model-", kOf = "-of-", kEnd = ".safetensors";
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const size_t digits = 5, size = kBegin.size() + digits + kOf.size() + digits + kEnd.size();
    if (name.size() != size || !name.starts_with(kBegin) || !name.ends_with(kEnd)) continue;
    const std::string count = name.substr(kBegin.size() + digits + kOf.size(), digits);
    if (name.substr(kBegin.size() + digits, kOf.size()) != kOf) continue;
    if (count.find_first_not_of("0123456789") != std::string::npos) continue;
    for (int shard = 1; shard <= std::min(std::stoi(count), static_cast<int>(kShardsLimit)); ++shard) {
      names.insert(fmt::format("{}{:05}{}{}{}", kBegin, shard, kOf, count, kEnd));
    }
    break;
  }
  for (const std::string& name : names) {
    if (is_there(directory + "/" + name)) continue;
    throw Error(ErrorKind::model, fmt::format("{}: {} is missing, one of {} files of the model's weights", directory,
                                              name, names.size()));
  }
  return names;
}

// Opens each file and returns its number.
std::map<std::string, uint32_t> open_files(const std::string& directory, const std::set<std::string>& names,
                                           Checkpoint& checkpoint) {
  std::map<std::string, uint32_t> number_of;
  for (const std::string& name : names) {
    const auto number = static_cast<uint32_t>(checkpoint.files.size());
    number_of[name] = number;
    checkpoint.files.push_back(File::open_read(directory + "/" + name));
    read_safetensors(checkpoint.files.back(), number, checkpoint.tensors, &checkpoint.unread);
  }
  return number_of;
}

// The directory's weights, under the names that its files give them.
void open_weights(const std::string& directory, Checkpoint& checkpoint) {
  const std::string whole = "model.safetensors", index = directory + "/" + whole + ".index.json";
  if (!is_there(index)) {
    std::set<std::string> names;
    if (is_there(directory + "/" + whole)) {
      names = {whole};
    } else {
      names = shards_without_index(directory);  // each says itself what it holds
    }
    if (names.empty()) refuse_without_weights(directory);
    open_files(directory, names, checkpoint);
    return;
  }
  const std::map<std::string, std::string> file_of = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  if (names.empty() || names.size() > kShardsLimit) {
    throw Error(ErrorKind::model, fmt::format("{}: names {} files", index, names.size()));
  }
  std::map<std::string, uint32_t> number_of = open_files(directory, names, checkpoint);
  for (const auto& [tensor, file] : file_of) {
    const TensorInfo* found = checkpoint.find(tensor);
    if (found != nullptr && found->extent.file == number_of[file]) continue;
    if (found == nullptr && checkpoint.unread.contains(tensor)) continue;
    throw Error(ErrorKind::model,
                fmt::format("{}: the tensor {} should be in {}, and is not", index, printable(tensor), file));
  }
}

void rename_tensors(Checkpoint& checkpoint, const std::string& family) {
  std::map<std::string, TensorInfo> renamed;
  for (auto& [name, tensor] : checkpoint.tensors) {
    const std::optional<std::string> known = gguf_name_of_hf(name, family);
    if (!known) continue;
    const auto [at, inserted] = renamed.emplace(*known, tensor);
    if (!inserted) {
      throw Error(ErrorKind::model, fmt::format("{}: the tensors {} and {} are the same one of the model",
                                                checkpoint.path(), printable(at->second.name), printable(name)));
    }
  }
  checkpoint.tensors = std::move(renamed);
  std::map<std::string, std::string> unread;
  for (auto& [name, message] : checkpoint.unread) {
    const std::optional<std::string> known = gguf_name_of_hf(name, family);
    if (known) unread.emplace(hf_name_of_gguf(*known, family), std::move(message));
  }
  checkpoint.unread = std::move(unread);
}

// The matrix that a bias belongs to: "attn_q" of "blk.3.attn_q.bias"; nothing where it is none of a layer's own.
std::string biased_part(const std::string& name) {
  constexpr std::string_view kLayer = "blk.", kBias = ".bias";
  const size_t dot = name.find('.', kLayer.size());
  if (!name.starts_with(kLayer) || !name.ends_with(kBias) || dot + kBias.size() >= name.size()) return "";
  const std::string part = name.substr(dot + 1, name.size() - kBias.size() - dot - 1);
  for (const char* matrix :
       {"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
    if (part == matrix) return part;
  }
  return "";
}

// Biases are those that the config asks for: others of the files are not computed with, and none may be missing.
void settle_biases(Checkpoint& checkpoint, const std::vector<HfBias>& asked) {
  std::string first;
  size_t ignored = 0;
  for (auto at = checkpoint.tensors.begin(); at != checkpoint.tensors.end();) {
    const std::string part = biased_part(at->first);
    const bool keep =
        part.empty() || std::any_of(asked.begin(), asked.end(), [&](const HfBias& bias) { return bias.part == part; });
    if (!keep && ignored++ == 0) first = printable(at->second.name);
    at = keep ? std::next(at) : checkpoint.tensors.erase(at);
  }
  if (ignored > 0) {
    checkpoint.remarks.push_back(
        fmt::format("{}: {} of the files not asked for, and ignored, as transformers does: {}{}", checkpoint.config,
                    ignored == 1 ? "1 bias" : fmt::format("{} biases", ignored), first, ignored == 1 ? "" : ", ..."));
  }
  for (int layer = 0; checkpoint.find(fmt::format("blk.{}.attn_norm.weight", layer)) != nullptr; ++layer) {
    for (const auto& [part, why] : asked) {
      const std::string matrix = fmt::format("blk.{}.{}", layer, part);
      if (checkpoint.find(matrix + ".weight") == nullptr || checkpoint.has(matrix + ".bias")) continue;
      throw Error(ErrorKind::model, fmt::format("{}: {}, but the files hold no {}", checkpoint.config, why,
                                                checkpoint.tensor_name(matrix + ".bias")));
    }
  }
}

// A tied output is the embedding, whatever copy of it a file holds; one that is not tied must be there.
void settle_output(Checkpoint& checkpoint, const std::string& config) {
  const bool tied = checkpoint.integer("general.tied") != 0;
  if (tied) {
    checkpoint.tensors.erase("output.weight");
    checkpoint.unread.erase(checkpoint.tensor_name("output.weight"));
  } else if (!checkpoint.has("output.weight")) {
    throw Error(ErrorKind::model, fmt::format("{}: tie_word_embeddings is not true, but {} holds no lm_head.weight",
                                              config, checkpoint.path()));
  }
}

// What a folder is that has no config.json.
[[noreturn]] void refuse_without_config(const std::string& directory) {
  std::string other;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name == "adapter_config.json") {
      other = "; it is an adapter's, which is to be merged into its model first (merge_and_unload of peft)";
    } else if (name.ends_with(".gguf") && other.empty()) {
      other = fmt::format("; {} is there: give the file", printable(name));
    }
  }
  throw Error(ErrorKind::model,
              fmt::format("{}: a folder without config.json, so no Hugging Face model directory{}", directory, other));
}

// A file that is given in place of the directory around it.
bool is_of_directory(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") || name == "config.json";
}

}  // namespace

Checkpoint open_hf_directory(const std::string& directory) {
  Checkpoint checkpoint;
  checkpoint.config = directory + "/config.json";
  if (!is_there(checkpoint.config)) refuse_without_config(directory);
  HfConfig config = read_hf_config(read_small_json(checkpoint.config), checkpoint.config);
  checkpoint.meta = std::move(config.meta);
  checkpoint.config_names = std::move(config.names);
  open_weights(directory, checkpoint);
  rename_tensors(checkpoint, checkpoint.text("general.architecture"));
  settle_output(checkpoint, checkpoint.config);
  settle_biases(checkpoint, config.biases);
  const std::filesystem::path path = std::filesystem::weakly_canonical(directory);
  checkpoint.meta["general.name"] = path.filename().string();
  return checkpoint;
}

Checkpoint open_model(const std::string& path) {
  // One that cannot be looked at is for the reader of files to refuse, with the reason.
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_hf_directory(path);
  if (is_of_directory(path) && std::filesystem::exists(path, ignored)) {
    const std::string folder = std::filesystem::path(path).parent_path().string();
    throw Error(ErrorKind::model, fmt::format("{}: one file of a Hugging Face model directory; give the directory: {}",
                                              path, folder.empty() ? "." : folder));
  }
  return open_gguf(path);
}

}  // namespace spillway
