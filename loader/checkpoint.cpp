#include "loader/checkpoint.h"

#include <fmt/format.h>

#include <filesystem>

#include "loader/hf_names.h"

namespace spillway {
namespace {

// The value under `key`; null when there is none and a fallback takes its place.
const MetaValue* look_up(const Checkpoint& checkpoint, const std::string& key, bool has_fallback) {
  const auto found = checkpoint.meta.find(key);
  if (found != checkpoint.meta.end()) return &found->second;
  if (has_fallback) return nullptr;
  throw Error(ErrorKind::model,
              fmt::format("{}: the key {} is missing", checkpoint.meta_path(), checkpoint.key_name(key)));
}

[[noreturn]] void wrong_type(const Checkpoint& checkpoint, const std::string& key, const MetaValue& value,
                             const char* wanted) {
  static constexpr const char* kNames[] = {"a boolean", "an integer", "a number", "a text", "an array"};
  throw Error(ErrorKind::model, fmt::format("{}: the key {} holds {} where {} is expected", checkpoint.meta_path(),
                                            checkpoint.key_name(key), kNames[value.index()], wanted));
}

}  // namespace

int64_t Checkpoint::integer(const std::string& key, std::optional<int64_t> fallback) const {
  const MetaValue* value = look_up(*this, key, fallback.has_value());
  if (!value) return *fallback;
  if (const auto* integer = std::get_if<int64_t>(value)) return *integer;
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  wrong_type(*this, key, *value, "an integer");
}

double Checkpoint::number(const std::string& key, std::optional<double> fallback) const {
  const MetaValue* value = look_up(*this, key, fallback.has_value());
  if (!value) return *fallback;
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  wrong_type(*this, key, *value, "a number");
}

std::string Checkpoint::text(const std::string& key, std::optional<std::string> fallback) const {
  const MetaValue* value = look_up(*this, key, fallback.has_value());
  if (!value) return *fallback;
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  wrong_type(*this, key, *value, "a text");
}

const std::vector<std::string>* Checkpoint::strings(const std::string& key) const {
  const MetaValue* value = look_up(*this, key, true);
  if (!value) return nullptr;
  const auto* array = std::get_if<MetaArray>(value);
  const auto* strings = array ? std::get_if<std::vector<std::string>>(array) : nullptr;
  if (!strings) wrong_type(*this, key, *value, "an array of texts");
  return strings;
}

const TensorInfo* Checkpoint::find(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

bool Checkpoint::has(const std::string& name) const {
  if (find(name) != nullptr) return true;
  const auto other = unread.empty() ? unread.end() : unread.find(tensor_name(name));
  if (other != unread.end()) throw Error(ErrorKind::model, other->second);
  return false;
}

const TensorInfo& Checkpoint::require(const std::string& name) const {
  if (has(name)) return tensors.at(name);
  // Of several files of a folder none is the one that should have it.
  const std::string where = config.empty() ? path() : std::filesystem::path(config).parent_path().string();
  throw Error(ErrorKind::model, fmt::format("{}: the tensor {} is missing", where, tensor_name(name)));
}

std::string Checkpoint::key_name(const std::string& key) const {
  const auto found = config_names.find(key);
  return found == config_names.end() ? key : found->second;
}

std::string Checkpoint::tensor_name(const std::string& name) const {
  if (const TensorInfo* found = find(name)) return found->name;
  return config.empty() ? name : hf_name_of_gguf(name, text("general.architecture", ""));
}

uint64_t Checkpoint::weight_bytes() const {
  uint64_t sum = 0;
  for (const auto& [name, tensor] : tensors) sum += tensor.extent.bytes;
  return sum;
}

}  // namespace spillway
