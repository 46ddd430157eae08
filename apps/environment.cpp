#include "apps/environment.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

namespace spillway {

XdgDirs xdg_of_this_user() {
  const Environment environment = [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  const passwd* user = ::getpwuid(::getuid());
  return XdgDirs::from(environment, user == nullptr ? "/" : user->pw_dir);
}

}  // namespace spillway
