#include "runtime/machine_cache.h"

#include <chrono>
#include <filesystem>
#include <utility>

#include "kernels/check.h"
#include "kernels/whole_file.h"
#include "loader/text/json_file.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr int kFormat = 2;
constexpr uintmax_t kMostFileBytes = 1 << 20;
constexpr size_t kMostEntries = 16;  // of a kind
constexpr const char* kCompute = "compute";
constexpr const char* kDisks = "disks";
constexpr const char* kLayers = "layers";
constexpr const char* kKinds[] = {kCompute, kDisks, kLayers};

json empty_cache() {
  json cache{{"format", kFormat}};
  for (const char* kind : kKinds) cache[kind] = json::object();
  return cache;
}

bool is_ours(const json& file) {
  if (!file.is_object() || file.value("format", json()) != kFormat) return false;
  for (const char* kind : kKinds) {
    if (!file.contains(kind) || !file[kind].is_object() || file[kind].size() > kMostEntries) return false;
  }
  return true;
}

int64_t measured_at(const json& entry) {
  if (!entry.is_object() || !entry.contains("measured_at")) return 0;
  return entry["measured_at"].is_number_integer() ? entry["measured_at"].get<int64_t>() : 0;
}

}  // namespace

MachineCache::MachineCache(std::string path) : path_(std::move(path)), kept_(empty_cache()) {
  std::error_code error;
  if (path_.empty() || !std::filesystem::is_regular_file(path_, error)) return;
  if (std::filesystem::file_size(path_, error) > kMostFileBytes || error) return;
  try {
    json file = read_small_json(path_);
    if (is_ours(file)) kept_ = std::move(file);
  } catch (const Error&) {  // it is measured anew
  }
}

const json* MachineCache::find(const char* kind, const std::string& key) const {
  const json& entries = kept_[kind];
  const auto found = entries.find(key);
  return found == entries.end() ? nullptr : &*found;
}

std::optional<ComputeProfile> MachineCache::compute(const std::string& key) const {
  const json* found = find(kCompute, key);
  return found == nullptr ? std::nullopt : compute_profile_from(*found);
}

std::optional<DiskProfile> MachineCache::disk(const std::string& key) const {
  const json* found = find(kDisks, key);
  return found == nullptr ? std::nullopt : disk_profile_from(*found);
}

std::optional<LayerTimes> MachineCache::layers(const std::string& key) const {
  const json* found = find(kLayers, key);
  return found == nullptr ? std::nullopt : layer_times_from(*found);
}

void MachineCache::put(const std::string& key, const LayerTimes& times) { put(kLayers, key, to_json(times)); }
void MachineCache::put(const std::string& key, const ComputeProfile& profile) { put(kCompute, key, to_json(profile)); }
void MachineCache::put(const std::string& key, const DiskProfile& profile) { put(kDisks, key, to_json(profile)); }

void MachineCache::put(const char* kind, const std::string& key, json profile) {
  json& entries = kept_[kind];
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  profile["measured_at"] = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  entries[key] = std::move(profile);
  while (entries.size() > kMostEntries) {
    auto oldest = entries.end();
    for (auto it = entries.begin(); it != entries.end(); ++it) {
      if (it.key() == key) continue;
      if (oldest == entries.end() || measured_at(*it) < measured_at(*oldest)) oldest = it;
    }
    entries.erase(oldest);
  }
}

void MachineCache::save() {
  if (path_.empty()) return;
  WholeFile file(path_, 0600);
  file.write(kept_.dump(1) + "\n");
  file.commit();
}

}  // namespace spillway
