#include "apps/environment.h"

#include <cstdlib>

namespace spillway {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string cache_directory() {
  std::string base = environment("XDG_CACHE_HOME");
  if (base.empty() || base.front() != '/') base = environment("HOME") + "/.cache";
  return base + "/spillway";
}

std::string default_model() { return cache_directory() + "/SmolLM2-135M-Instruct.Q4_1.gguf"; }

}  // namespace spillway
