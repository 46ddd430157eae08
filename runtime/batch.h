// Batch: many requests through one engine, asked for and answered by hooks. Requests of unequal length share passes, so
// that a weight that is brought to the device serves all of them; each ends, or fails, alone.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/generate.h"
#include "runtime/predict.h"

namespace spillway {

struct BatchRequest {
  uint64_t key = 0;  // the caller's own
  std::vector<int32_t> prompt;
  GenerateOptions options;  // `before` is not looked at
  int logprobs = -1;        // how many of the likeliest tokens are given with each one's own; -1: not even that
};

// Of one token of an answer: the natural logarithm of its probability by the model's logits, before any penalty,
// temperature or cut; and of the likeliest tokens, in descending order.
struct TokenLogprob {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;
};

struct BatchAnswer {
  uint64_t key = 0;
  Generation generation;  // what came until the error, where there is one; `timings` and bytes are the job's, not set
  std::vector<TokenLogprob> logprobs;  // [tokens], where they were asked for
  std::string error;                   // of this request alone; empty: none
  ErrorKind error_kind = ErrorKind::usage;
};

struct BatchOptions {
  int most_sequences = 0;      // at once; 0: as many as the plan has room for (Options::batch)
  int most_positions = 0;      // of one request, its prompt and answer; 0: the plan's (Options::positions)
  int threads = 0;             // that draw tokens, side by side, from a pass's logits; 0: one for each core we may use
  bool deterministic = false;  // each greedy answer is, to the bit of its logits, what the request gets alone
};

struct BatchProgress {
  int64_t done = 0, failed = 0;  // requests; `done` has the failed ones in it
  int running = 0, waiting = 0;  // that have room, and that wait for it
  int64_t tokens_in = 0, tokens_out = 0;
  double seconds = 0;  // since the job began
};

struct BatchHooks {
  // Asked when there is room, and for one more; none: no more will come.
  std::function<std::optional<BatchRequest>()> next;
  std::function<void(BatchAnswer)> on_answer;              // in the order in which they end
  std::function<void(const BatchProgress&)> on_progress;   // after each pass
  std::function<bool()> interrupted;                       // asked between passes; what runs is not answered then
  std::function<double(const PassLoad&)> expected_s = {};  // that a pass of so much should take; none: not known
};

// Seconds by what was waited for.
struct BatchWaits {
  double next = 0;    // the caller's next request; no pass ran
  double answer = 0;  // the caller's taking of an answer; so
  WaitSeconds bytes;  // in passes
};

struct BatchReport {
  int64_t requests = 0, failed = 0;  // answered, and of those the ones with an error
  int64_t tokens_in = 0, tokens_out = 0;
  int64_t tokens_shared = 0;  // of tokens_in: not computed, for another request's pages held them
  int64_t put_back = 0;       // how often a request without max_tokens gave its pages to older ones (BatchSchedule),
  int64_t tokens_recomputed = 0;  // and tokens that were computed again therefore; of prefill_rows
  int64_t steps = 0;              // passes
  int64_t decode_rows = 0, prefill_rows = 0;
  double seconds = 0;
  double decode_s = 0, prefill_s = 0;  // of passes, shared out by their rows
  double decode_tps = 0, prefill_tps = 0;
  double drawing_s = 0;    // of passes: tokens were drawn from the logits
  double expected_s = 0;   // that these passes should have taken together; 0: not known
  double mean_batch = 0;   // rows of a decode step, over the passes that had any
  int most_sequences = 0;  // that ran at once
  // Passes beside which a request waited: for pages of the KV, those of all positions that it may take, or is expected
  // to (BatchSchedule), or for a place, as many running as may. Beside the others none did.
  int64_t short_of_pages = 0, short_of_places = 0;
  LinkBytes bytes;
  BatchWaits waits;
  bool interrupted = false;
};

// Runs until `next` gives no more and all is answered, or it is interrupted. A request that cannot be run is answered
// with its error; throws what ends the job: Error(io), and whatever a hook throws. Then the engine's sequences stay
// open.
BatchReport run_batch(Engine& engine, const Tokenizer& tokenizer, const BatchOptions& options, const BatchHooks& hooks);

}  // namespace spillway
