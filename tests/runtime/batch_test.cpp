// Requests that share passes answer as they do alone: in any mixture and order, on every device, wherever bytes lie.
#include "tests/runtime/batch_jobs.h"

namespace spillway {
namespace {

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

TEST_F(BatchTest, EachKeepsItsOwnKv) {
  World world = long_world();
  world.tiny.name = "batch_kept";
  world.tiny.layers = 4;
  world.tiny.type = DType::q8_0;
  for (const KvRetention keep : {KvRetention::heavy, KvRetention::window}) {
    world.options.selection = {.keep = keep, .tokens = 72, .whole_layers = 1};
    check(world, [] { return make_cpu_device({.threads = 2}); });
    if (HasFatalFailure()) return;
  }
  expect_counts({"jobs of more than one row a step"});
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
