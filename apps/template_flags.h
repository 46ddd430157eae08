// TemplateFlags: which chat template writes the prompts.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "loader/chat_template.h"

namespace spillway {

struct TemplateFlags {
  std::string name;  // built-in, or a file; empty: the model's own

  void add(CLI::App& command);
  // Throws Error(usage) naming the flag where there is no such template or it is not understood, Error(model) of the
  // model's own.
  ChatTemplate resolve(const Checkpoint& checkpoint) const;
  // What tells it from others: a file by its bytes. Throws Error(usage).
  std::string identity() const;
};

}  // namespace spillway
