// Where our own files live, and where the ecosystem keeps its models (XDG Base Directory Specification 0.8).
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace spillway {

// Looks up a variable of the environment; apps/ passes the process's own, tests one of theirs.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

struct XdgDirs {
  std::string cache_home;    // $XDG_CACHE_HOME, else ~/.cache
  std::string data_home;     // $XDG_DATA_HOME, else ~/.local/share
  std::string state_home;    // $XDG_STATE_HOME, else ~/.local/state
  std::string hf_home;       // $HF_HOME, else <cache_home>/huggingface
  std::string hf_hub_cache;  // $HF_HUB_CACHE, else <hf_home>/hub

  // Relative XDG paths are ignored, as the specification asks. `home` stands in where $HOME is unset or empty.
  static XdgDirs from(const Environment& environment, const std::string& home);

  // <cache_home>/spillway, <data_home>/spillway and <state_home>/spillway; created, with what lies above, for this user
  // alone (0700). Error(io) naming the folder.
  std::string cache() const;
  std::string data() const;
  std::string state() const;
};

}  // namespace spillway
