// Requests without max_tokens that give their pages to older ones, and are computed again, answer as if nothing had
// been.
#include <gtest/gtest.h>

#include "tests/runtime/batch_jobs.h"

namespace spillway {
namespace {

class BatchPutBack : public BatchTest {};

constexpr const char* kPutBack = "jobs that put some back";

TEST_F(BatchPutBack, WhoIsPutBackAnswersAsAlone) {
  World world = endless_world();
  world.tiny.name = "batch_put_back";
  world.tiny.type = DType::q4_0;
  world.options.chunk = 64;
  world.positions = 640;  // so that KV leaves the device
  world.sequences = 4;
  for (const bool deterministic : {true, false}) {
    check(
        world, [] { return make_cpu_device({.threads = 2}); }, deterministic);
    if (HasFatalFailure()) return;
  }
  expect_counts({kPlaced[0], kPlaced[1], "jobs that share beginnings", kPutBack});
}

TEST_F(BatchPutBack, WhoIsPutBackAnswersAsAloneWhateverIsComputed) {
  World world = endless_world();
  world.rounds = 1;
  const auto expect = [&](const char* name, const MakeDevice& make) {
    SCOPED_TRACE(name);
    world.tiny.name = fmt::format("batch_put_back_{}", name);
    counts_.clear();
    check(world, make);
    expect_counts({kPutBack});
  };
  const MakeDevice cpu = [] { return make_cpu_device({.threads = 2}); };
  world.tiny.experts = 8;
  expect("experts", cpu);
  world.tiny.experts = 0;
  world.tiny.type = DType::f16;
  world.options.kv_codec = KvCodec::f32;
  expect("single", cpu);
#ifndef SPILLWAY_SANITIZED  // in which the reference takes a minute
  world.options.kv_codec = KvCodec::f16;
  world.tiny.layers = 2;
  world.sequences = 12;
  expect("reference", [] { return make_reference_device(); });
#endif
}

// Decode steps read other KV than a chunk does: it would not be the same.
TEST_F(BatchPutBack, WhatCannotBeComputedAgainIsNeverPutBack) {
  World world = endless_world();
  world.rounds = 1;
  world.requests = 9;
  world.tiny.layers = 4;
  world.tiny.name = "batch_kept_packed";
  world.options.kv_codec = KvCodec::kivi4;
  world.options.kv_edge_layers = 1;
  check(world, [] { return make_cpu_device({.threads = 2}); });
  if (HasFatalFailure()) return;
  world.tiny.name = "batch_kept_chosen";
  world.options.kv_codec = KvCodec::f16;
  world.options.selection = {.selector = KvSelector::rehearsal, .rank = 8, .whole_layers = 1};
  check(world, [] { return make_cpu_device({.threads = 2}); });
  EXPECT_EQ(counts_[kPutBack], 0);
  EXPECT_EQ(counts_["jobs"], 2);
}

TEST_F(BatchPutBack, WhatCanBeComputedAgainIsKnown) {
  const Model model = open_for_test(write_tiny_model({.layers = 6, .name = "batch_again"}, ::testing::TempDir()));
  Options options;
  options.context = 256;
  options.device_bytes = uint64_t{1} << 30;
  const auto recomputes = [&](Device& device, bool any_kernel) {
    return engine_for_test(model, options, device).recomputes(any_kernel);
  };
  const auto cpu = make_cpu_device({.threads = 1});
  for (const bool any_kernel : {true, false}) {
    for (const KvCodec codec : {KvCodec::f16, KvCodec::f32, KvCodec::q8, KvCodec::kivi4}) {
      options.kv_codec = codec;
      EXPECT_EQ(recomputes(*cpu, any_kernel), !packs(codec)) << info(codec).name;
    }
    options.kv_codec = KvCodec::f16;
    options.selection.keep = KvRetention::window;
    EXPECT_FALSE(recomputes(*cpu, any_kernel));
    options.selection = {};
  }
  begin_on_gpu_under_test(3);
  const auto gpu = gpu_under_test();
  options.host_bytes = uint64_t{1} << 30;
  EXPECT_TRUE(recomputes(*gpu, true));
  EXPECT_FALSE(recomputes(*gpu, false)) << "a prompt's products are not those of decode steps";
}

TEST_F(BatchPutBack, AnInterruptClosesWhatIsPutBackToo) {
  World world = endless_world();
  world.tiny.name = "batch_put_back_interrupt";
  model_.emplace(Model::open(write_tiny_model(world.tiny, ::testing::TempDir())));
  const int vocab = model_->tokenizer->vocab();
  std::vector<BatchRequest> requests = random_requests(4, 8, vocab, 40);
  for (BatchRequest& request : requests) {
    request.options.max_tokens = -1;
    request.options.ignore_end = true;
  }
  for (size_t i = 0; i < 3; ++i) requests[i].prompt = random_ids(i, world.positions - 2, vocab);
  const auto device = make_cpu_device({.threads = 1});
  Options options = batch_options(world.options, {.positions = world.positions, .mean_positions = 128}, 8);
  options.device_bytes = uint64_t{1} << 30;
  Engine engine = engine_for_test(*model_, options, *device);
  size_t next = 0;
  bool all_ran = false, one_waits = false;
  const BatchReport report =
      run_batch(engine, *model_->tokenizer, {.deterministic = true},
                {.next = [&]() { return next < requests.size() ? std::optional(requests[next++]) : std::nullopt; },
                 .on_answer = [](const BatchAnswer&) {},
                 .on_progress =
                     [&](const BatchProgress& now) {
                       one_waits = now.waiting > 0;
                       all_ran = all_ran || (!one_waits && next == requests.size());
                     },
                 .interrupted = [&] { return all_ran && one_waits; }});
  EXPECT_TRUE(report.interrupted);
  EXPECT_GT(report.put_back, 0);
  EXPECT_EQ(engine.kv_bytes(Tier::device), 0u);
}

}  // namespace
}  // namespace spillway
