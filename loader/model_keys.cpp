#include "loader/model_keys.h"

#include <fmt/format.h>

namespace spillway {

int ModelKeys::integer(const char* name, int64_t lowest, int64_t highest, std::optional<int64_t> fallback) const {
  const int64_t value = checkpoint_.integer(key(name), fallback);
  if (value < lowest || value > highest) {
    refuse(fmt::format("{} is {}; {} to {} are possible", shown(name), value, lowest, highest));
  }
  return static_cast<int>(value);
}

float ModelKeys::number(const char* name, double above, double highest, std::optional<double> fallback) const {
  const double value = checkpoint_.number(key(name), fallback);
  if (!(value > above && value <= highest)) {
    refuse(fmt::format("{} is {}; it must lie above {} and not above {}", shown(name), value, above, highest));
  }
  return static_cast<float>(value);
}

void ModelKeys::expect_neutral(const char* name, double neutral) const {
  if (!has(name)) return;
  const double value = checkpoint_.number(key(name));
  if (value != neutral) refuse(fmt::format("{} is {}, which is not known; only {} is", shown(name), value, neutral));
}

void ModelKeys::refuse(const std::string& message) const {
  throw Error(ErrorKind::model, fmt::format("{}: {}", checkpoint_.meta_path(), message));
}

}  // namespace spillway
