#include "tests/fuzz/hf_directory_case.h"

#include "tests/fuzz/extents.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/parts.h"

namespace spillway {

bool try_hf_directory(std::span<const std::byte> bytes) {
  const auto parts = parts_of(bytes, 3);
  const auto &config = parts[0], &index = parts[1], &weights = parts[2];
  const Folder folder;
  folder.put("config.json", config);
  if (index.empty()) {
    folder.put("model.safetensors", weights);
  } else {
    folder.put("model.safetensors.index.json", index);
    folder.put("model-00001-of-00002.safetensors", weights.first(weights.size() / 2));
    folder.put("model-00002-of-00002.safetensors", weights.subspan(weights.size() / 2));
  }
  try {
    const Checkpoint checkpoint = open_model(folder.path());
    check_extents(checkpoint);
    check_extents(checkpoint, read_model_spec(checkpoint));
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;
    return false;
  }
}

}  // namespace spillway
