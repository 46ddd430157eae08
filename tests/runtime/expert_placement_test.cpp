// Mixtures of experts: wherever the experts lie, however few slots they pass through, the logits are the same to the
// bit; what is fetched is counted; and a long prompt leaves to decoding what it uses.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "kernels/backend.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr uint64_t kPlenty = 1ull << 28;
constexpr uint64_t kStaging = (8ull << 20) + (64 << 10);  // the least that staging takes of the host
constexpr int kPrompt = 110;
constexpr int kDecoded = 5;

#ifdef SPILLWAY_SANITIZED
constexpr int kCases = 3, kGpuCases = 1;
#else
constexpr int kCases = 24, kGpuCases = 4;
#endif

TinyModelOptions mixture(int i) {
  constexpr DType kTypes[] = {DType::q4_0, DType::f32, DType::q8_0};
  constexpr int kExperts[] = {8, 17, 5}, kUsed[] = {2, 4, 5};
  return {.layers = 2 + i % 2,
          .hidden = 64,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 32,
          .ffn = 96,
          .experts = kExperts[i],
          .experts_used = kUsed[i],
          .expert_ffn = i == 1 ? 40 : 64,
          .vocab = 320,
          .family = i == 1 ? "qwen3moe" : "llama",
          .type = kTypes[i],
          .tied = i == 0,
          .seed = 400u + i,
          .name = "experts" + std::to_string(i)};
}

Options random_budgets(std::mt19937_64& random, uint64_t weights) {
  const auto share = [&](uint64_t of) { return of * (random() % 1000) / 1000; };
  Options options;
  options.disk_directory = ::testing::TempDir();
  options.device_bytes = (128 << 10) + (random() % 3 == 0 ? share(weights) : 0);
  if (random() % 2 == 0) options.host_bytes = kStaging + (random() % 4 == 0 ? 2 * weights : share(weights));
  options.disk_bytes = 8 << 20;
  options.lookahead = static_cast<int>(random() % 4);
  options.unit_bytes = 1 + random() % (32 << 10);
  options.context = kPrompt + kDecoded;
  options.chunk = 48;
  return options;
}

class ExpertPlacement : public testing::Test {
 protected:
  void run_cases(const TinyModelOptions& wanted, int cases, const std::function<std::unique_ptr<Device>()>& make,
                 bool host_needed) {
    SCOPED_TRACE(wanted.name);
    const Model model = open_for_test(write_tiny_model(wanted, ::testing::TempDir()));
    const int vocab = model.spec.shape.vocab;
    const PlacedWork work{
        .prompt = random_ids(7, kPrompt, vocab), .decoded = random_ids(8, kDecoded, vocab), .prompt_rows = 4};
    Options everything;
    everything.device_bytes = kPlenty;
    if (host_needed) everything.host_bytes = kPlenty;
    everything.context = kPrompt + kDecoded;
    everything.chunk = 48;
    const PlacedRun expected = run_placed(model, *make(), everything, work);
    ASSERT_FALSE(expected.covered.experts_move);
    std::mt19937_64 random(wanted.seed);
    for (int i = 0; i < cases; ++i) {
      Options options = random_budgets(random, model.checkpoint.weight_bytes());
      if (host_needed && !options.host_bytes) options.host_bytes = kStaging;
      // The same kernels compute on both sides of the cut.
      if (!host_needed && options.host_bytes && random() % 3 == 0) {
        options.device_layers = static_cast<int>(random() % static_cast<uint64_t>(model.spec.shape.layers));
      }
      const PlacedRun run = run_raised(model, *make(), options, work);
      counts_["cases"] += 1;
      counts_["experts move"] += run.covered.experts_move;
      counts_["experts kept on the host"] += run.covered.experts_from_host;
      counts_["experts from disk alone"] += run.covered.experts_move && !run.covered.experts_from_host;
      counts_["layers computed beside the device"] += run.covered.layers_on_cpu;
      counts_["other weights stream"] += run.covered.layer_from_disk || run.covered.weights_from_host;
      ASSERT_EQ(run.logits.size(), expected.logits.size());
      ASSERT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), run.logits.size() * sizeof(float)), 0)
          << "case " << i << ": --device-mem " << *options.device_bytes << " --host-mem "
          << options.host_bytes.value_or(0) << " units of " << options.unit_bytes << " lookahead " << options.lookahead;
    }
  }
  void print() const {
    for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  }
  std::map<std::string, int> counts_;
};

TEST_F(ExpertPlacement, NeverChangesTheLogits) {
  for (int i = 0; i < 3; ++i) {
    int threads = 0;
    run_cases(
        mixture(i), kCases, [&] { return make_cpu_device({.threads = 1 + threads++ % 3}); }, false);
  }
  print();
  EXPECT_GE(2 * counts_["experts move"], counts_["cases"]);
  EXPECT_GE(8 * counts_["experts kept on the host"], counts_["cases"]);
  EXPECT_GE(8 * counts_["experts from disk alone"], counts_["cases"]);
  EXPECT_GE(8 * counts_["other weights stream"], counts_["cases"]);
  EXPECT_GE(12 * counts_["layers computed beside the device"], counts_["cases"]);
}

TEST_F(ExpertPlacement, NeverChangesTheLogitsOnAGpu) {
  begin_on_gpu_under_test(1);
  if (testing_a_gpu()) GTEST_SKIP() << "a GPU's context is many times such a model: its budgets are no placements";
  for (int i = 0; i < 3; ++i)
    run_cases(
        mixture(i), kGpuCases, [] { return gpu_under_test(true); }, true);
  print();
  EXPECT_GE(2 * counts_["experts move"], counts_["cases"]);
}

// On a CPU, with everything but experts on the device and slots for `slots` of them.
Plan plan_with_slots(const Model& model, Device& device, Options& options, int slots) {
  for (uint64_t bytes = 64 << 10;; bytes += 4096) {
    options.device_bytes = bytes;
    try {
      Plan plan = plan_for_test(model, options, device);
      if (!plan.moves_experts()) throw std::logic_error("more slots than experts");
      if (plan.expert_device_slots >= slots && !plan.streams_weights()) return plan;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::fit) throw;
    }
  }
}

class ExpertCounting : public testing::Test {
 protected:
  ExpertCounting() : device_(make_cpu_device({.threads = 1})) {
    TinyModelOptions shape = mixture(0);
    shape.layers = 3;
    shape.experts = 16;
    shape.name = "counted_experts";
    model_ = std::make_unique<Model>(open_for_test(write_tiny_model(shape, ::testing::TempDir())));
    options_.context = 256;
    options_.chunk = 64;
    options_.sequences = 4;
  }
  Engine& start(int slots) {
    Plan plan = plan_with_slots(*model_, *device_, options_, slots);
    EXPECT_EQ(plan.expert_device_slots, slots);
    for (const WeightUnit& unit : plan.expert_units) {
      least_ = std::min(least_, unit.bytes);
      most_ = std::max(most_, unit.bytes);
    }
    engine_ =
        std::make_unique<Engine>(*model_, options_, std::move(plan), EngineDevices{*device_, nullptr}, OnProgress{});
    return *engine_;
  }
  // The same few tokens, one by one, in a sequence of their own.
  ExpertCounts decode() {
    const ExpertCounts before = engine_->expert_counts(false);
    const SequenceId sequence = engine_->open_sequence();
    for (const int32_t token : {7, 8, 9}) engine_->decode(sequence, token, false);
    engine_->close_sequence(sequence);
    const ExpertCounts now = engine_->expert_counts(false);
    return {now.asked - before.asked, now.on_device - before.on_device, now.on_host - before.on_host};
  }
  uint64_t read() const { return engine_->traffic().bytes(Link::disk_read, Cause::experts); }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Model> model_;
  Options options_;
  std::unique_ptr<Engine> engine_;
  uint64_t least_ = UINT64_MAX, most_ = 0;
};

TEST_F(ExpertCounting, WhatIsFetchedIsCounted) {
  start(20);
  EXPECT_EQ(read(), 0u);
  const ExpertCounts first = decode();
  EXPECT_EQ(first.asked, 3u * 3 * 2);
  const uint64_t fetched = first.asked - first.on_device;
  EXPECT_GE(fetched, 3u * 2);
  EXPECT_GE(read(), fetched * least_);
  EXPECT_LE(read(), fetched * most_);
  const uint64_t before = read();
  const ExpertCounts again = decode();
  EXPECT_EQ(again.on_device, again.asked) << "all of them fit";
  EXPECT_EQ(read(), before);
  EXPECT_EQ(engine_->traffic().bytes(Link::host_to_device), 0u);
}

TEST_F(ExpertCounting, APromptLeavesWhatDecodingUses) {
  start(24);
  decode();
  const SequenceId sequence = engine_->open_sequence();
  const std::vector<int32_t> prompt = random_ids(3, 200, model_->spec.shape.vocab);
  engine_->prefill(sequence, prompt, 1, false, [](int, std::span<const float>) {});
  engine_->close_sequence(sequence);
  EXPECT_GE(engine_->expert_counts(true).asked, 40u) << "of 48, in each of the chunks";
  const ExpertCounts after = decode();
  EXPECT_EQ(after.on_device, after.asked);
}

TEST_F(ExpertCounting, TwoSlotsSuffice) {
  start(2);
  decode();
  const ExpertCounts again = decode();
  EXPECT_EQ(again.asked, 18u);
  EXPECT_LT(again.on_device, again.asked);
}

}  // namespace
}  // namespace spillway
