// Runs a model under given budgets and keeps every logit: what the placement tests compare to the bit. Plans of tests
// leave out the process's own memory, so that budgets are small numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/engine.h"
#include "runtime/model.h"
#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

// A model without a tokenizer (tests speak in ids).
Model open_for_test(const std::string& path);
std::vector<int32_t> random_ids(uint64_t seed, int count, int vocab);

// By limits of a machine that has been measured, so that there is something to choose by. cpu: may compute layers
// beside the device (Options::device_layers). Throws Error(fit) as the planner does.
Plan plan_for_test(const Model& model, const Options& options, Device& device, Device* cpu = nullptr);
// The same; budgets that are too small are raised, little by little, to about the least that fits: there everything
// moves.
Plan raised_plan(const Model& model, Options& options, Device& device, Device* cpu = nullptr);

Engine engine_for_test(const Model& model, const Options& options, Device& device, Device* cpu = nullptr);
Engine raised_engine(const Model& model, Options& options, Device& device, Device* cpu = nullptr);

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

// Layers beyond Options::device_layers are computed by a CPU device of two threads.
PlacedRun run_placed(const Model& model, Device& device, const Options& options, const PlacedWork& work);
// With budgets raised as by raised_plan, and then by `beyond` bytes on the device. What was planned must then do.
PlacedRun run_raised(const Model& model, Device& device, Options& options, const PlacedWork& work, uint64_t beyond = 0);

}  // namespace spillway
