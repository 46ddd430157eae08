// MachineCache: measured profiles, kept in one JSON file under what they belong to.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "runtime/hardware_profile.h"

namespace spillway {

class MachineCache {
 public:
  // What the file holds; nothing where it is missing, too large, or not ours. An empty path keeps nothing.
  explicit MachineCache(std::string path);

  // Entries that are broken are not there.
  std::optional<ComputeProfile> compute(const std::string& key) const;
  std::optional<DiskProfile> disk(const std::string& key) const;
  std::optional<LayerTimes> layers(const std::string& key) const;
  void put(const std::string& key, const ComputeProfile& profile);
  void put(const std::string& key, const DiskProfile& profile);
  void put(const std::string& key, const LayerTimes& times);
  // Writes the file, whole or not at all, for this user alone; makes no folder. Throws Error(io). The oldest entries of
  // many go.
  void save();

 private:
  const nlohmann::json* find(const char* kind, const std::string& key) const;
  void put(const char* kind, const std::string& key, nlohmann::json profile);

  std::string path_;
  nlohmann::json kept_;
};

}  // namespace spillway
