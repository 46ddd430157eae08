#include "apps/environment.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

namespace spillway {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

XdgDirs xdg_of_this_user() {
  const auto variable = [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  const passwd* user = ::getpwuid(::getuid());
  return XdgDirs::from(variable, user == nullptr ? "/" : user->pw_dir);
}

std::string cache_directory() { return xdg_of_this_user().cache_home + "/spillway"; }

std::string default_model() { return cache_directory() + "/SmolLM2-135M-Instruct.Q4_1.gguf"; }

}  // namespace spillway
