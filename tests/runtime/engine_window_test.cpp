// KV pages that have left the device: where layers have windows, what these have passed stays where it is.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/kv_span.h"
#include "memory/kv/layout.h"
#include "memory/tier.h"
#include "runtime/engine.h"
#include "runtime/planner.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kPositions = 1536;

TinyModelOptions tiny(const std::string& name) {
  return {.layers = 3,
          .hidden = 64,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .ffn = 160,
          .vocab = 320,
          .type = DType::q8_0,
          .seed = 90,
          .name = name};
}

Engine engine_of(const Model& model, Device& device, const Options& options) {
  Plan plan = make_plan({.options = options,
                         .spec = model.spec,
                         .checkpoint = model.checkpoint,
                         .device = device,
                         .ops = device.ops(),
                         .limits = {},
                         .process_bytes = 0});
  return Engine(model, options, std::move(plan), device, {});
}

// Raised to about the least that fits, where pages leave the device.
Engine tight_engine(const Model& model, Device& device, Options options) {
  for (;;) {
    try {
      return engine_of(model, device, options);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::fit) throw;
      options.device_bytes = *options.device_bytes + *options.device_bytes / 16;
    }
  }
}

// KV bytes that a decode step after 1400 tokens reads from disk; its logits.
uint64_t fetched(const Model& model, Options options, std::vector<float>* logits) {
  const auto device = make_cpu_device({.threads = 2});
  Engine engine = tight_engine(model, *device, options);
  const SequenceId sequence = engine.open_sequence();
  engine.prefill(sequence, random_ids(5, 1400, model.spec.shape.vocab), 0, false, [](int, std::span<const float>) {});
  const uint64_t before = engine.traffic().bytes(Link::disk_read, Cause::kv_fetch);
  const std::span<const float> row = engine.decode(sequence, 7, false);
  logits->assign(row.begin(), row.end());
  return engine.traffic().bytes(Link::disk_read, Cause::kv_fetch) - before;
}

TEST(EngineWindow, WhatAllWindowsHavePassedIsNotFetched) {
  Model model = open_for_test(write_tiny_model(tiny("window"), ::testing::TempDir()));
  Options plenty, tight;
  plenty.device_bytes = 1ull << 30;
  plenty.context = tight.context = kPositions;
  tight.device_bytes = 256 << 10;
  tight.disk_bytes = 16 << 20;
  tight.disk_directory = ::testing::TempDir();
  std::vector<float> logits, expected;
  const uint64_t all = fetched(model, tight, &logits);
  for (LayerTensors& layer : model.spec.layers) layer.window = 300;  // positions 1101 to 1400: the third span's
  const uint64_t row_bytes = KvLayout(model.spec.shape).row_bytes();
  const uint64_t in_windows = fetched(model, tight, &logits);
  EXPECT_GT(in_windows, 0u);
  EXPECT_LE(in_windows, model.spec.layers.size() * (page_rows(1400) - 2 * kPagesPerSpan) * row_bytes);
  EXPECT_GE(all, in_windows + model.spec.layers.size() * 2 * kPagesPerSpan * row_bytes);
  fetched(model, plenty, &expected);
  EXPECT_EQ(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)), 0);
  model.spec.layers[1].window = 600;  // layers of different windows, as some families alternate
  fetched(model, tight, &logits);
  fetched(model, plenty, &expected);
  EXPECT_EQ(std::memcmp(logits.data(), expected.data(), expected.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace spillway
