// The command line as a whole: what main() parses, and what the completions and the man page are made from.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "apps/commands.h"

namespace spillway {

struct CommandLine {
  CLI::App app{"Runs language models, and contexts, that do not fit the GPU.", "spillway"};
  std::vector<std::pair<CLI::App*, Command>> commands;

  explicit CommandLine(const std::string& version);
};

}  // namespace spillway
