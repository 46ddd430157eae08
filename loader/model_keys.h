// The typed facts of one family in a checkpoint ("llama.block_count"), each held to a range that sizes computed from it
// cannot overflow.
#pragma once

#include <optional>
#include <string>

#include "loader/checkpoint.h"

namespace spillway {

class ModelKeys {
 public:
  ModelKeys(const Checkpoint& checkpoint, std::string family)
      : checkpoint_(checkpoint), prefix_(std::move(family) + ".") {}

  const Checkpoint& checkpoint() const { return checkpoint_; }
  std::string key(const char* name) const { return prefix_ + name; }
  // As messages name it: what the user's own file calls it.
  std::string shown(const char* name) const { return checkpoint_.key_name(key(name)); }
  bool has(const char* name) const { return checkpoint_.meta.contains(key(name)); }

  // Error(model) names the key where it is missing without a fallback, or out of its range.
  int integer(const char* name, int64_t lowest, int64_t highest, std::optional<int64_t> fallback = {}) const;
  float number(const char* name, double above, double highest, std::optional<double> fallback = {}) const;
  std::string text(const char* name, const char* fallback) const { return checkpoint_.text(key(name), fallback); }
  // For keys that change the computation in a way not known here: absent, or `neutral`.
  void expect_neutral(const char* name, double neutral) const;
  // Error(model) naming the file.
  [[noreturn]] void refuse(const std::string& message) const;

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
};

}  // namespace spillway
