#include "loader/hf_directory.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

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

// The directory's weights, under the names that its files give them.
void open_weights(const std::string& directory, Checkpoint& checkpoint) {
  const std::string whole = directory + "/model.safetensors", index = whole + ".index.json";
  if (!is_there(index)) {
    checkpoint.files.push_back(File::open_read(whole));
    return read_safetensors(checkpoint.files.back(), 0, checkpoint.tensors);
  }
  const std::map<std::string, std::string> file_of = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  if (names.empty() || names.size() > kShardsLimit) {
    throw Error(ErrorKind::model, fmt::format("{}: names {} files", index, names.size()));
  }
  std::map<std::string, uint32_t> number_of;
  for (const std::string& name : names) {
    const auto number = static_cast<uint32_t>(checkpoint.files.size());
    number_of[name] = number;
    checkpoint.files.push_back(File::open_read(directory + "/" + name));
    read_safetensors(checkpoint.files.back(), number, checkpoint.tensors);
  }
  for (const auto& [tensor, file] : file_of) {
    const TensorInfo* found = checkpoint.find(tensor);
    if (found != nullptr && found->extent.file == number_of[file]) continue;
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
}

// A tied output is the embedding, whatever copy of it a file holds; one that is not tied must be there.
void settle_output(Checkpoint& checkpoint, const std::string& config) {
  const bool tied = checkpoint.integer("general.tied") != 0;
  if (tied) {
    checkpoint.tensors.erase("output.weight");
  } else if (checkpoint.find("output.weight") == nullptr) {
    throw Error(ErrorKind::model, fmt::format("{}: tie_word_embeddings is false, but {} holds no lm_head.weight",
                                              config, checkpoint.path()));
  }
}

}  // namespace

Checkpoint open_hf_directory(const std::string& directory) {
  Checkpoint checkpoint;
  const std::string config = directory + "/config.json";
  if (!is_there(config)) {
    throw Error(ErrorKind::model,
                fmt::format("{}: a folder without config.json, so no Hugging Face model directory", directory));
  }
  checkpoint.meta = read_hf_config(read_small_json(config), config);
  open_weights(directory, checkpoint);
  rename_tensors(checkpoint, checkpoint.text("general.architecture"));
  settle_output(checkpoint, config);
  const std::filesystem::path path = std::filesystem::weakly_canonical(directory);
  checkpoint.meta["general.name"] = path.filename().string();
  return checkpoint;
}

Checkpoint open_model(const std::string& path) {
  // One that cannot be looked at is for the reader of files to refuse, with the reason.
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? open_hf_directory(path) : open_gguf(path);
}

}  // namespace spillway
