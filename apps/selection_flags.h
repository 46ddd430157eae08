// What stays of the KV and what decode steps read of it, as a person asks for it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "runtime/options.h"

namespace spillway {

struct SelectionFlags {
  std::string selector = "all";
  std::string keep = "all";
  std::string budget = "10%";
  std::string first_layers = "full";
  int rank = 0, key_bits = 0, granule = 0, ahead = 1;
  double alpha = 0, top_p = 0;
  double hot_set = 2;
  int check_every = 0;
  bool repair = false, exact = false;

  void add(CLI::App& command);
  // Throws Error(usage) naming the flag, for what --exact forbids too.
  void resolve(Options& options) const;

 private:
  void refuse_idle(const KvSelection& selection) const;

  std::vector<CLI::Option*> of_selection_;  // those that mean nothing without --kv-select or --kv-keep
  CLI::Option* rank_option_ = nullptr;
  CLI::Option* key_bits_option_ = nullptr;
  CLI::Option* ahead_option_ = nullptr;
  CLI::Option* alpha_option_ = nullptr;
  CLI::Option* top_p_option_ = nullptr;
};

}  // namespace spillway
