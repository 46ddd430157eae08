// Runs a model under given budgets and keeps every logit: what the placement tests compare to the bit.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/model.h"
#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

// Where a run's bytes were, for the histogram of what a test covered.
struct Covered {
  bool layer_kv_in_two_tiers = false;
  bool kv_on_host = false;
  bool kv_on_disk = false;
  bool layer_from_disk = false;  // some weights of a layer were streamed from disk
  bool weights_from_host = false;
  bool experts_move = false;       // not all experts were on the device
  bool experts_from_host = false;  // some were kept in host memory
  bool granules_fetched = false;   // of chosen KV
  bool layers_on_cpu = false;      // the CPU beside the device computed some
  int spans = 0;
};

struct PlacedRun {
  std::vector<float> logits;  // of the last rows of the prompt, then of each decode step
  Covered covered;
};

struct PlacedWork {
  std::vector<int32_t> prompt;
  std::vector<int32_t> decoded;  // tokens fed one by one after the prompt
  int prompt_rows = 2;           // rows of logits kept of the prompt
};

// A model without a tokenizer (tests speak in ids).
Model open_for_test(const std::string& path);
// Plans without the process's own memory, so that budgets are small numbers. Layers beyond Options::device_layers are
// computed by a CPU device of two threads. Throws Error(fit) as the planner does.
PlacedRun run_placed(const Model& model, Device& device, const Options& options, const PlacedWork& work);
std::vector<int32_t> random_ids(uint64_t seed, int count, int vocab);

}  // namespace spillway
