// SimulatedBlock: a block of equal requests through the product's planner, batch schedule and prediction, on a machine
// of which only numbers are given. Nothing is reserved, read or computed: where this is shown it is called simulated.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "loader/model_spec.h"
#include "perf/simulated/machine.h"
#include "runtime/batch_plan.h"

namespace spillway {

struct BlockWork {
  int prompt = 512, answer = 32;    // tokens of each request
  std::vector<int> chunks = {512};  // of prompts, tokens: the fastest counts (-ub)
  int sequences = 0;                // in the block; 0: plan_batch chooses
  KvCodec kv_codec = KvCodec::f16;
  int kv_edge_layers = 2;  // that keep half precision
};

struct SimulatedBlock {
  Plan plan;
  int answer = 0;  // tokens of each
  int passes = 0;
  double prompt_s = 0;  // of passes with rows of prompts in them
  double answer_s = 0;  // of the others
  // KV that leaves the device while prompts are computed. The prediction does not count it: it is added whole, as if
  // nothing hid it.
  double spill_s = 0;
  // Less the block cannot take: each of a request's tokens is a pass, that brings every weight which is not on the
  // device; and all rows are multiplied.
  double bound_s = 0;
  std::string bound;  // "disk", "link" or "compute"

  double seconds() const { return prompt_s + answer_s + spill_s; }
  // Tokens of answers over all the time, prompts' included: FlexGen's generation throughput.
  double tokens_per_second() const { return plan.batch * answer / seconds(); }
  double bound_tokens_per_second() const { return plan.batch * answer / bound_s; }
};

// All layers on the device. Nothing where not even one request fits.
std::optional<SimulatedBlock> simulate_block(const ModelSpec& spec, const Checkpoint& checkpoint,
                                             const GivenMachine& machine, const BlockWork& work);
nlohmann::json to_json(const SimulatedBlock& block);

}  // namespace spillway
