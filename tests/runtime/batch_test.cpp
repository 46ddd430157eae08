// Requests that share passes answer as they do alone: in any mixture and order, on every device, wherever bytes lie.
#include "runtime/batch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "kernels/backend.h"
#include "runtime/batch_plan.h"
#include "runtime/continuation.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

#ifdef SPILLWAY_SANITIZED
constexpr int kRounds = 2;
#else
constexpr int kRounds = 3;
#endif

using Answers = std::map<uint64_t, BatchAnswer>;

struct Job {
  BatchReport report;
  Answers answers;
};

Job run(Engine& engine, const Tokenizer& tokenizer, const std::vector<BatchRequest>& requests, BatchOptions options) {
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

std::vector<BatchRequest> random_requests(uint64_t seed, int count, int vocab, int longest) {
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
void expect_same(const Answers& expected, const Answers& answers) {
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
void expect_close(const Answers& expected, const Answers& answers) {
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
};

// Long enough that KV leaves the device.
World long_world() {
  World world;
  world.options.chunk = 64;
  world.longest = 900;
  world.positions = 1024;
  return world;
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
    const Answers expected = alone(world, requests, make);
    if (HasFailure()) return;
    std::mt19937_64 random(world.tiny.seed + 5);
    for (int round = 0; round < world.rounds; ++round) {
      SCOPED_TRACE(fmt::format("{} round {}", world.tiny.name, round));
      const auto device = make();
      Options options = world.options;
      options.batch = options.sequences = options.logit_rows = round == 0 ? 16 : 3 + static_cast<int>(random() % 2);
      if (round == 2) options.logit_rows = 2;
      options.positions = world.positions;
      options.context = world.positions * (round == 0 ? 8 : 3);
      options.disk_directory = ::testing::TempDir();
      const uint64_t kv = uint64_t{4} * static_cast<uint64_t>(model_->spec.shape.kv_width() * options.context *
                                                              model_->spec.shape.layers);
      const bool far = !device->host_addressable();
      options.device_bytes = round == 0 ? uint64_t{1} << 30 : device->overhead_bytes() + (256 << 10);
      if (far || round == 1) options.host_bytes = (8ull << 20) + (round == 1 ? kv : 0);
      if (round > 0) options.disk_bytes = 2 * kv;
      Engine engine = raised_engine(*model_, options, *device);
      std::shuffle(requests.begin(), requests.end(), random);
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
    counts_["jobs of more than one row a step"] += job.report.mean_batch > 1.2;
  }

  void expect_counts(std::initializer_list<const char*> kinds) {
    for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
    for (const char* kind : kinds) EXPECT_GE(counts_[kind], 1) << kind;
  }

  std::optional<Model> model_;
  std::map<std::string, int> counts_;
};

constexpr const char* kPlaced[] = {"jobs with streamed weights", "jobs with spilled KV"};

TEST_F(BatchTest, OnTheCpuAnyMixtureAnswersAsAlone) {
  World world = long_world();
  for (const DType type : {DType::q4_0, DType::f16}) {
    world.tiny.type = type;
    world.tiny.name = fmt::format("batch{}", static_cast<int>(type));
    for (const bool deterministic : {true, false}) {
      check(
          world, [] { return make_cpu_device({.threads = 2}); }, deterministic);
      if (HasFatalFailure()) return;
    }
  }
  expect_counts({kPlaced[0], kPlaced[1], "jobs that share beginnings", "jobs of more than one row a step"});
}

// Whoever draws, and whatever is drawn beside: each request has its own chance.
TEST_F(BatchTest, AnyNumberOfThreadsDrawsTheSame) {
  World world;
  world.tiny.name = "batch_drawn";
  model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
  std::vector<BatchRequest> requests = random_requests(11, 24, model_->tokenizer->vocab(), 40);
  for (BatchRequest& request : requests) {
    request.options.sampling.temp = 0.8F + 0.1F * static_cast<float>(request.key % 5);
    request.options.sampling.top_k = request.key % 3 == 0 ? 20 : 0;
    request.options.sampling.top_p = request.key % 4 == 0 ? 1.0F : 0.9F;
    request.options.sampling.seed = request.key;
  }
  const auto make = [] { return make_cpu_device({.threads = 2}); };
  const Answers expected = alone(world, requests, make);
  if (HasFailure()) return;
  for (const int threads : {1, 3, 8}) {
    SCOPED_TRACE(threads);
    const auto device = make();
    Options options = world.options;
    options.batch = options.sequences = options.logit_rows = 16;
    options.positions = world.positions;
    options.context = world.positions * 16;
    options.device_bytes = uint64_t{1} << 30;
    Engine engine = engine_for_test(*model_, options, *device);
    const Job job = run(engine, *model_->tokenizer, requests, {.threads = threads});
    expect_same(expected, job.answers);
    EXPECT_GT(job.report.most_sequences, 8);
    EXPECT_GT(job.report.drawing_s, 0);
    EXPECT_LE(job.report.drawing_s, job.report.decode_s + job.report.prefill_s);
  }
}

TEST_F(BatchTest, OnTheReferenceAnyMixtureAnswersAsAlone) {
  World world;
  world.tiny.name = "batch_reference";
  world.tiny.layers = 2;
  world.requests = 8;
  world.longest = 90;
  check(world, [] { return make_reference_device(); });
  expect_counts({kPlaced[0], "jobs of more than one row a step"});
}

TEST_F(BatchTest, PackedPagesAnswerAsAlone) {
  World world = long_world();
  world.tiny.name = "batch_packed";
  world.tiny.layers = 4;
  world.options.kv_codec = KvCodec::kivi4;
  world.options.kv_edge_layers = 1;
  check(world, [] { return make_cpu_device({.threads = 2}); });
  expect_counts({kPlaced[1], "jobs that share beginnings", "jobs of more than one row a step"});
}

TEST_F(BatchTest, SinglePrecisionAnswersAsAlone) {
  World world = long_world();
  world.tiny.name = "batch_single";
  world.options.kv_codec = KvCodec::f32;
  check(world, [] { return make_cpu_device({.threads = 2}); });
  expect_counts({kPlaced[1], "jobs that share beginnings", "jobs of more than one row a step"});
}

TEST_F(BatchTest, EachChoosesAmongItsOwnKv) {
  World world = long_world();
  world.tiny.name = "batch_chosen";
  world.tiny.layers = 4;
  world.tiny.type = DType::q8_0;
  world.options.selection = {.selector = KvSelector::rehearsal, .rank = 8, .whole_layers = 1};
  check(world, [] { return make_cpu_device({.threads = 2}); });
  expect_counts({kPlaced[1], "jobs that share beginnings"});
}

TEST_F(BatchTest, ExpertsAnswerAsAlone) {
  World world;
  world.tiny.name = "batch_experts";
  world.tiny.experts = 8;
  check(world, [] { return make_cpu_device({.threads = 2}); });
  expect_counts({"jobs of more than one row a step"});
}

TEST_F(BatchTest, OnAGpuAnyMixtureAnswersAsAlone) {
  begin_on_gpu_under_test(3);
  World world;
  world.tiny.layers = 2;
  world.requests = 10;
  world.longest = 80;
  world.rounds = 2;
  for (const DType type : {DType::q4_0, DType::f16}) {
    world.tiny.type = type;
    world.tiny.name = fmt::format("batch_gpu{}", static_cast<int>(type));
    check(world, [] { return gpu_under_test(); });
    if (HasFatalFailure()) return;
  }
  world.requests = 6;
  check(
      world, [] { return gpu_under_test(); }, false);
  expect_counts({kPlaced[0], "jobs of more than one row a step"});
}

TEST_F(BatchTest, AnErrorIsItsRequestsAlone) {
  World world;
  world.tiny.name = "batch_errors";
  model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
  const int vocab = model_->tokenizer->vocab();
  std::vector<BatchRequest> requests = random_requests(3, 6, vocab, 60);
  const Answers expected = alone(world, requests, [] { return make_cpu_device({.threads = 1}); });
  const BatchRequest good = requests.front();
  const auto bad = [&](uint64_t key, const std::function<void(BatchRequest&)>& spoil) {
    BatchRequest request = good;
    request.key = key;
    spoil(request);
    requests.insert(requests.begin() + static_cast<ptrdiff_t>(key), std::move(request));
  };
  bad(0, [](BatchRequest& r) { r.prompt.clear(); });
  bad(1, [&](BatchRequest& r) { r.prompt = random_ids(1, 257, vocab); });
  bad(2, [&](BatchRequest& r) { r.prompt.push_back(vocab); });
  bad(3, [](BatchRequest& r) { r.options.sampling.top_p = 2; });
  bad(4, [](BatchRequest& r) { r.options.stops = {""}; });
  bad(5, [](BatchRequest& r) { r.logprobs = kMostLogprobs + 1; });
  bad(6, [](BatchRequest& r) { r.options.max_tokens = 0; });  // no error: nothing was asked for
  const auto device = make_cpu_device({.threads = 2});
  Options options = batch_options(world.options, {.positions = 256}, 4);
  options.device_bytes = uint64_t{1} << 30;
  Engine engine = engine_for_test(*model_, options, *device);
  Job job = run(engine, *model_->tokenizer, requests, {});
  EXPECT_EQ(job.report.failed, 6);
  for (uint64_t key = 0; key < 6; ++key) {
    EXPECT_FALSE(job.answers.at(key).error.empty()) << key;
    EXPECT_EQ(job.answers.at(key).error_kind, ErrorKind::usage);
    job.answers.erase(key);
  }
  EXPECT_EQ(job.answers.at(6).error, "");
  EXPECT_TRUE(job.answers.at(6).generation.tokens.empty());
  job.answers.erase(6);
  expect_same(expected, job.answers);
}

TEST_F(BatchTest, ManyRequestsKeepToTheBudgets) {
  World world;
  world.tiny.name = "batch_many";
  model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
  const auto device = make_cpu_device({.threads = 2});
  Options options = batch_options(world.options, {.positions = 128, .mean_positions = 64}, 32);
  options.chunk = 64;
  options.device_bytes = 256 << 10;
  Engine engine = raised_engine(*model_, options, *device);
  std::vector<BatchRequest> requests = random_requests(9, 300, model_->tokenizer->vocab(), 100);
  const Job job = run(engine, *model_->tokenizer, requests, {});
  count(engine, job);
  EXPECT_EQ(job.report.failed, 0);
  EXPECT_GT(job.report.most_sequences, 16);
  EXPECT_GT(job.report.mean_batch, 8);
  int64_t in = 0, out = 0;
  for (const BatchRequest& request : requests) in += static_cast<int64_t>(request.prompt.size());
  for (const auto& [key, answer] : job.answers) out += static_cast<int64_t>(answer.generation.tokens.size());
  EXPECT_EQ(job.report.tokens_in, in);
  EXPECT_EQ(job.report.tokens_out, out);
  EXPECT_EQ(job.report.prefill_rows, in - job.report.tokens_shared) << "every token of a prompt once";
}

TEST_F(BatchTest, AnInterruptEndsTheJob) {
  World world;
  world.tiny.name = "batch_interrupt";
  model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
  const auto device = make_cpu_device({.threads = 1});
  Options options = batch_options(world.options, {.positions = 256}, 4);
  options.device_bytes = uint64_t{1} << 30;
  Engine engine = engine_for_test(*model_, options, *device);
  const std::vector<BatchRequest> requests = random_requests(4, 20, model_->tokenizer->vocab(), 60);
  size_t next = 0, answered = 0;
  const BatchReport report =
      run_batch(engine, *model_->tokenizer, {},
                {.next = [&]() { return next < requests.size() ? std::optional(requests[next++]) : std::nullopt; },
                 .on_answer = [&](const BatchAnswer&) { ++answered; },
                 .on_progress = {},
                 .interrupted = [&] { return answered >= 5; }});
  EXPECT_TRUE(report.interrupted);
  EXPECT_EQ(report.requests, static_cast<int64_t>(answered));
  EXPECT_LT(answered, requests.size());
  EXPECT_EQ(engine.kv_bytes(Tier::device), 0u) << "what ran is closed";
}

}  // namespace
}  // namespace spillway
