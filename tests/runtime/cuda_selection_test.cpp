// Decode steps that read chosen granules alone, on the CUDA kernels, under emulation or on a GPU: whatever the budgets,
// the order in which streams run, and with graphs or without, the same choice and the same bits.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr uint64_t kPlenty = 1ull << 30;
constexpr uint64_t kStaging = (6ull << 20) + (64 << 10);  // the least that staging takes of the host
constexpr int kDecoded = 5;                               // a page closes on the way

#ifdef SPILLWAY_SANITIZED
constexpr int kPages = 2, kCases = 1;
#else
constexpr int kPages = 4, kCases = 3;
#endif
constexpr int kPrompt = kPages * kPageTokens + 61;

Options common(const KvSelection& selection, KvCodec codec) {
  Options options;
  options.context = kPrompt + kDecoded + 500;  // of which most could be elsewhere
  options.chunk = 96;
  options.kv_codec = codec;
  options.kv_edge_layers = 0;
  options.selection = selection;
  options.disk_directory = ::testing::TempDir();
  return options;
}

class CudaSelection : public testing::Test {
 protected:
  void SetUp() override { begin_on_gpu_under_test(1); }

  void run_cases(const KvSelection& selection, KvCodec codec, uint64_t seed) {
    const Model model = open_for_test(write_tiny_model({.layers = 3,
                                                        .hidden = 64,
                                                        .heads = 4,
                                                        .kv_heads = 2,
                                                        .head_dim = 32,
                                                        .ffn = 160,
                                                        .vocab = 640,
                                                        .type = DType::q8_0,
                                                        .seed = 410,
                                                        .name = "cuda_selection"},
                                                       ::testing::TempDir()));
    const PlacedWork work{
        .prompt = random_ids(7, kPrompt, 640), .decoded = random_ids(8, kDecoded, 640), .prompt_rows = 1};
    Options everything = common(selection, codec);
    everything.device_bytes = kPlenty;
    everything.host_bytes = kPlenty;
    const PlacedRun expected = run_raised(model, *gpu_under_test(false), everything, work);
    EXPECT_FALSE(expected.covered.granules_fetched);
    const uint64_t kv = 4ull * model.spec.shape.kv_width() * kPrompt * 3;
    std::mt19937_64 random(seed);
    for (int i = 0; i < kCases; ++i) {
      Options options = common(selection, codec);
      options.device_bytes = 128 << 10;
      options.host_bytes = kStaging + (i % 2 == 0 ? 2 * kv : 0);
      options.disk_bytes = 2 * kv;
      options.selection.hot_slots = 1 + static_cast<double>(random() % 10) / 10;
      const bool graphs = random() % 2 == 0;
      const uint64_t order = random();
      if (!testing_a_gpu()) emulation::restart(order);
      const PlacedRun run = run_raised(model, *gpu_under_test(graphs), options, work);
      counts_["cases"] += 1;
      counts_["granules fetched from host"] += run.covered.granules_fetched && run.covered.kv_on_host;
      counts_["granules fetched from disk"] += run.covered.granules_fetched && run.covered.kv_on_disk;
      ASSERT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), run.logits.size() * sizeof(float)), 0)
          << "case " << i << " of " << selection.flag() << " " << info(codec).name << " --host-mem "
          << *options.host_bytes << " graphs " << graphs << " order " << order;
    }
  }

  std::map<std::string, int> counts_;
};

KvSelection few(KvSelector selector, int rank, int granule, int ahead) {
  return {.selector = selector,
          .tokens = 72,
          .rank = rank,
          .granule_tokens = granule,
          .whole_layers = ahead - 1,
          .ahead = ahead};
}

TEST_F(CudaSelection, PlacementNeverChangesTheLogits) {
  run_cases(few(KvSelector::rehearsal, 16, 4, 1), KvCodec::f16, 1);
  run_cases(few(KvSelector::rehearsal, 24, 2, 2), KvCodec::f16, 2);
  run_cases(few(KvSelector::oracle, 0, 1, 1), KvCodec::f16, 3);
  run_cases(few(KvSelector::rehearsal, 16, 4, 1), KvCodec::kivi4, 4);
  run_cases(few(KvSelector::bounds, 0, 16, 1), KvCodec::f16, 5);
  KvSelection adapts = few(KvSelector::rehearsal, 16, 2, 1);
  adapts.alpha = 2;
  adapts.top_p = 0.6;
  run_cases(adapts, KvCodec::f16, 6);
  for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  EXPECT_GE(counts_["granules fetched from host"], 3);
  EXPECT_GE(counts_["granules fetched from disk"], 1);
}

// What is kept, in prompts of several chunks whose KV is elsewhere when the last one reads it.
TEST_F(CudaSelection, WhatIsKeptIsTheSameEverywhere) {
  KvSelection window = few(KvSelector::all, 0, 4, 1), heavy = few(KvSelector::all, 0, 2, 2);
  window.keep = KvRetention::window;
  heavy.keep = KvRetention::heavy;
  run_cases(window, KvCodec::kivi4, 7);
  run_cases(heavy, KvCodec::f16, 8);
}

}  // namespace
}  // namespace spillway
