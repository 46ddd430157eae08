// One run of a batch: from files and flags through the engine to the output.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "apps/batch/request_reader.h"
#include "apps/flags.h"
#include "apps/template_flags.h"

namespace spillway {

struct BatchFlags {
  RunFlags run;
  TemplateFlags chat_template;
  std::string input, output;
  Shard shard;
  int most_sequences = 0;  // 0: what is fastest
  int max_tokens = -1;
  uint64_t seed = 0;
  bool deterministic = false;
  bool ordered = false;
  bool retry_failed = false;
  bool ignore_end = false;
  const CLI::App* command = nullptr;  // whose options these are
};

// Returns the exit code.
int run_batch_job(const BatchFlags& flags);

}  // namespace spillway
