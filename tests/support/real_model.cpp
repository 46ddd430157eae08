#include "tests/support/real_model.h"

#include <cstdlib>
#include <filesystem>

namespace spillway {

std::string real_model() {
  if (const char* path = std::getenv("SPILLWAY_MODEL")) return path;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache == nullptr && home == nullptr) return {};
  const std::filesystem::path folder = cache != nullptr ? cache : std::string(home) + "/.cache";
  const std::filesystem::path file = folder / "spillway" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(file) ? file.string() : std::string{};
}

}  // namespace spillway
