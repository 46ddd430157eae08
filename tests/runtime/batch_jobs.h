// Jobs of requests on tiny models, beside what each request is answered alone.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <random>

#include "kernels/backend.h"
#include "runtime/batch.h"
#include "runtime/batch_plan.h"
#include "runtime/continuation.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {

#ifdef SPILLWAY_SANITIZED
inline constexpr int kRounds = 2;
#else
inline constexpr int kRounds = 3;
#endif

using Answers = std::map<uint64_t, BatchAnswer>;

struct Job {
  BatchReport report;
  Answers answers;
};

inline Job run(Engine& engine, const Tokenizer& tokenizer, const std::vector<BatchRequest>& requests,
               BatchOptions options) {
  Job job;
  size_t next = 0;
  int64_t told = 0;
  PassLoad all;
  job.report =
      run_batch(engine, tokenizer, options,
                {.next = [&]() { return next < requests.size() ? std::optional(requests[next++]) : std::nullopt; },
                 .on_answer =
                     [&](BatchAnswer answer) {
                       const uint64_t key = answer.key;
                       EXPECT_TRUE(job.answers.emplace(key, std::move(answer)).second) << "twice";
                     },
                 .on_progress =
                     [&](const BatchProgress& progress) {
                       EXPECT_GE(progress.tokens_out, told);
                       told = progress.tokens_out;
                     },
                 .interrupted = {},
                 .expected_s =
                     [&](const PassLoad& load) {
                       all.decoded += load.decoded;
                       all.prefilled += load.prefilled;
                       EXPECT_GE(load.logit_rows, load.decoded);
                       EXPECT_GE(load.positions, load.decoded);
                       EXPECT_EQ(load.decoded == 0, load.positions == 0);
                       return 0.25;
                     }});
  EXPECT_EQ(all.decoded, job.report.decode_rows) << "of every pass it is asked what it should take";
  EXPECT_EQ(all.prefilled, job.report.prefill_rows);
  EXPECT_EQ(job.report.expected_s, 0.25 * static_cast<double>(job.report.steps));
  EXPECT_EQ(job.answers.size(), requests.size());
  EXPECT_EQ(job.report.requests, static_cast<int64_t>(requests.size()));
  return job;
}

inline std::vector<BatchRequest> random_requests(uint64_t seed, int count, int vocab, int longest) {
  std::mt19937_64 random(seed);
  const std::vector<int32_t> common = random_ids(seed + 1, longest, vocab);
  std::vector<BatchRequest> requests;
  for (int i = 0; i < count; ++i) {
    BatchRequest request;
    request.key = 100 + static_cast<uint64_t>(i);
    const int length = 1 + static_cast<int>(random() % static_cast<uint64_t>(longest));
    request.prompt = random_ids(random(), length, vocab);
    if (i % 2 == 0) std::copy_n(common.begin(), random() % (static_cast<uint64_t>(length) + 1), request.prompt.begin());
    request.options.max_tokens = 1 + static_cast<int>(random() % 12);
    request.options.ignore_end = i % 3 != 0;
    request.options.sampling.temp = 0;
    request.options.sampling.repeat_penalty = i % 4 == 1 ? 1.2F : 1.0F;
    request.logprobs = 3;
    requests.push_back(std::move(request));
  }
  return requests;
}

// To the bit.
inline void expect_same(const Answers& expected, const Answers& answers) {
  ASSERT_EQ(expected.size(), answers.size());
  for (const auto& [key, wanted] : expected) {
    SCOPED_TRACE(key);
    const BatchAnswer& got = answers.at(key);
    ASSERT_EQ(got.error, wanted.error);
    ASSERT_EQ(got.generation.tokens, wanted.generation.tokens);
    ASSERT_EQ(got.generation.text, wanted.generation.text);
    ASSERT_EQ(got.generation.finish, wanted.generation.finish);
    ASSERT_EQ(got.logprobs.size(), wanted.logprobs.size());
    for (size_t i = 0; i < got.logprobs.size(); ++i) {
      ASSERT_EQ(got.logprobs[i].logprob, wanted.logprobs[i].logprob) << "token " << i;
      ASSERT_EQ(got.logprobs[i].top, wanted.logprobs[i].top);
    }
  }
}

// Within rounding, until the first token that two logits decide which rounding cannot tell apart.
inline void expect_close(const Answers& expected, const Answers& answers) {
  constexpr float kRounding = 0.01F;
  ASSERT_EQ(expected.size(), answers.size());
  for (const auto& [key, wanted] : expected) {
    SCOPED_TRACE(key);
    const BatchAnswer& got = answers.at(key);
    ASSERT_EQ(got.error, wanted.error);
    for (size_t i = 0; i < std::min(got.logprobs.size(), wanted.logprobs.size()); ++i) {
      ASSERT_NEAR(got.logprobs[i].top[0].second, wanted.logprobs[i].top[0].second, kRounding) << "token " << i;
      if (got.generation.tokens[i] == wanted.generation.tokens[i]) continue;
      ASSERT_NEAR(got.logprobs[i].logprob, wanted.logprobs[i].logprob, kRounding) << "token " << i;
      break;
    }
  }
}

struct World {
  TinyModelOptions tiny = {.layers = 3, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 32, .ffn = 160};
  Options options;
  int requests = 14;
  int longest = 150;    // of a prompt
  int positions = 256;  // of a request
  int rounds = kRounds;
  bool endless = false;  // most requests say no max_tokens, and there is room for two that take all they may
  int sequences = 8;     // then; else as many as a round says
};

// Long enough that KV leaves the device.
inline World long_world() {
  World world;
  world.options.chunk = 64;
  world.longest = 900;
  world.positions = 1024;
  return world;
}

// Answers that grow beyond what is expected of them: each draws in its own way, to the end of the context, which for a
// third comes at once.
inline World endless_world() {
  World world;
  world.requests = 12;
  world.longest = 100;
  world.positions = 448;
  world.endless = true;
  return world;
}

inline void make_endless(std::vector<BatchRequest>& requests, const World& world, int vocab) {
  for (BatchRequest& request : requests) {
    const uint64_t number = request.key % 6;
    request.options.max_tokens = number == 5 ? 200 : -1;
    if (number % 2 == 0) request.options.sampling = {.temp = 0.8F, .seed = request.key};
    if (number % 3 == 0) request.prompt = random_ids(request.key, world.positions - 2, vocab);
    if (number == 2 || number == 4) {  // they begin alike
      const std::vector<int32_t> common = random_ids(world.tiny.seed, 70, vocab);
      request.prompt.insert(request.prompt.begin(), common.begin(), common.end());
    }
  }
}

// Positions that were computed for an answer; of what ends the text the token before, for no text is to end it here.
inline int64_t positions_of(const BatchAnswer& answer) {
  const Generation& generation = answer.generation;
  return generation.prompt_tokens + static_cast<int64_t>(generation.tokens.size()) -
         (generation.finish == FinishReason::stop ? 0 : 1);
}

class BatchTest : public ::testing::Test {
 protected:
  using MakeDevice = std::function<std::unique_ptr<Device>()>;

  // Each request by generate() on an engine for one sequence; then by run_batch() there, for the bits.
  Answers alone(const World& world, const std::vector<BatchRequest>& requests, const MakeDevice& make) {
    const auto device = make();
    Options options = world.options;
    options.device_bytes = uint64_t{1} << 30;
    options.host_bytes.reset();
    if (!device->host_addressable()) options.host_bytes = uint64_t{1} << 30;
    options.disk_bytes = 0;
    options.context = world.positions;
    Engine engine = engine_for_test(*model_, options, *device);
    const Job job = run(engine, *model_->tokenizer, requests, {});
    EXPECT_EQ(job.report.most_sequences, 1);
    for (const BatchRequest& request : requests) {
      const SequenceId sequence = engine.open_sequence();
      const Generation generated = generate(engine, *model_->tokenizer, sequence, request.prompt, request.options, {});
      engine.close_sequence(sequence);
      EXPECT_EQ(generated.tokens, job.answers.at(request.key).generation.tokens);
      EXPECT_EQ(generated.text, job.answers.at(request.key).generation.text);
      EXPECT_EQ(generated.finish, job.answers.at(request.key).generation.finish);
    }
    return job.answers;
  }

  // In several mixtures, orders and budgets.
  void check(const World& world, const MakeDevice& make, bool deterministic = true) {
    model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
    std::vector<BatchRequest> requests =
        random_requests(world.tiny.seed, world.requests, model_->tokenizer->vocab(), world.longest);
    if (world.endless) make_endless(requests, world, model_->tokenizer->vocab());
    const Answers expected = alone(world, requests, make);
    if (HasFailure()) return;
    std::mt19937_64 random(world.tiny.seed + 5);
    for (int round = 0; round < world.rounds; ++round) {
      SCOPED_TRACE(fmt::format("{} round {}", world.tiny.name, round));
      const auto device = make();
      Options options = world.options;
      options.batch = options.sequences = options.logit_rows = round == 0 ? 16 : 3 + static_cast<int>(random() % 2);
      if (world.endless) options.batch = options.sequences = options.logit_rows = world.sequences;
      if (round == 2) options.logit_rows = 2;
      options.positions = world.positions;
      options.context = world.positions * (world.endless ? 2 : round == 0 ? 8 : 3);
      options.disk_directory = ::testing::TempDir();
      const uint64_t kv = uint64_t{4} * static_cast<uint64_t>(model_->spec.shape.kv_width() * options.context *
                                                              model_->spec.shape.layers);
      const bool far = !device->host_addressable();
      options.device_bytes = round == 0 ? uint64_t{1} << 30 : device->overhead_bytes() + (256 << 10);
      if (far || round == 1) options.host_bytes = (8ull << 20) + (round == 1 ? kv : 0);
      if (round > 0) options.disk_bytes = 2 * kv;
      Engine engine = raised_engine(*model_, options, *device);
      std::shuffle(requests.begin(), requests.end(), random);
      if (world.endless) {
        std::stable_partition(requests.begin(), requests.end(), [&](const BatchRequest& request) {
          return static_cast<int>(request.prompt.size()) > world.positions / 2;
        });
      }
      const Job job = run(engine, *model_->tokenizer, requests, {.deterministic = deterministic});
      // A CPU has one order of summation for any number of rows.
      const bool bits = deterministic || device->ops().few_rows() == 0;
      bits ? expect_same(expected, job.answers) : expect_close(expected, job.answers);
      if (HasFatalFailure()) return;
      count(engine, job);
    }
  }

  void count(const Engine& engine, const Job& job) {
    const Plan& plan = engine.plan();
    for (const Tier tier : {Tier::device, Tier::host}) EXPECT_LE(engine.peak(tier), plan.tier(tier).budget);
    EXPECT_EQ(engine.kv_bytes(Tier::device) + engine.kv_bytes(Tier::host) + engine.kv_bytes(Tier::disk), 0u);
    counts_["jobs"] += 1;
    counts_["jobs with streamed weights"] += plan.streams_weights();
    counts_["jobs with spilled KV"] += plan.spills_kv();
    counts_["jobs that share beginnings"] += job.report.tokens_shared > 0;
    counts_["jobs that put some back"] += job.report.put_back > 0;
    EXPECT_EQ(job.report.put_back > 0, job.report.tokens_recomputed > 0);
    int64_t positions = 0;
    for (const auto& [key, answer] : job.answers) positions += positions_of(answer);
    EXPECT_EQ(
        job.report.decode_rows + job.report.prefill_rows + job.report.tokens_shared - job.report.tokens_recomputed,
        positions)
        << "every position once";
    counts_["jobs of more than one row a step"] += job.report.mean_batch > 1.2;
  }

  void expect_counts(std::initializer_list<const char*> kinds) {
    for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
    for (const char* kind : kinds) EXPECT_GE(counts_[kind], 1) << kind;
  }

  std::optional<Model> model_;
  std::map<std::string, int> counts_;
};

inline constexpr const char* kPlaced[] = {"jobs with streamed weights", "jobs with spilled KV"};

}  // namespace spillway
