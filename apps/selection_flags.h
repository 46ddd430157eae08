// What decode steps read of the KV, as a person asks for it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "runtime/options.h"

namespace spillway {

struct SelectionFlags {
  std::string selector = "all";
  std::string budget = "10%";
  std::string first_layers = "full";
  int rank = 0, key_bits = 0, granule = 4, ahead = 1;
  double hot_set = 2;
  int check_every = 0;
  bool exact = false;

  void add(CLI::App& command);
  // Throws Error(usage) naming the flag, for what --exact forbids too.
  void resolve(Options& options) const;

 private:
  std::vector<CLI::Option*> of_selection_;  // those that mean nothing without --kv-select
  CLI::Option* rank_option_ = nullptr;
  CLI::Option* key_bits_option_ = nullptr;
};

}  // namespace spillway
