#include "runtime/xdg.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "kernels/check.h"

namespace spillway {
namespace {

std::string own_folder(const std::string& home) {
  const std::filesystem::path folder = std::filesystem::path(home) / "spillway";
  std::filesystem::path made;
  for (const auto& part : folder) {
    made /= part;
    if (::mkdir(made.c_str(), 0700) == 0) continue;
    const int error = errno;
    if (std::error_code ignored; std::filesystem::is_directory(made, ignored)) continue;
    throw Error(ErrorKind::io, folder.string() + ": the folder cannot be made: " + std::strerror(error));
  }
  return folder;
}

}  // namespace

XdgDirs XdgDirs::from(const Environment& environment, const std::string& home) {
  const auto variable = [&](const char* name) { return environment(name).value_or(""); };
  const auto absolute = [&](const char* name, const std::string& otherwise) {
    const std::string value = variable(name);
    return value.starts_with('/') ? value : otherwise;
  };
  const std::string own = variable("HOME").empty() ? home : variable("HOME");
  const auto given = [&](const char* name, const std::string& otherwise) {
    const std::string value = variable(name);
    if (value == "~" || value.starts_with("~/")) return own + value.substr(1);
    return value.empty() ? otherwise : value;
  };
  XdgDirs dirs;
  dirs.cache_home = absolute("XDG_CACHE_HOME", own + "/.cache");
  dirs.data_home = absolute("XDG_DATA_HOME", own + "/.local/share");
  dirs.hf_home = given("HF_HOME", dirs.cache_home + "/huggingface");
  dirs.hf_hub_cache = given("HF_HUB_CACHE", dirs.hf_home + "/hub");
  return dirs;
}

std::string XdgDirs::cache() const { return own_folder(cache_home); }
std::string XdgDirs::data() const { return own_folder(data_home); }

}  // namespace spillway
