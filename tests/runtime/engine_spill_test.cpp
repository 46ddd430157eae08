// Pages that have left the device. Cut back, whatever goes, what stays answers as the same text does that never was
// longer, to the bit, and the places of what went are free. Where layers have windows, what these have passed stays
// where it is.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/kv_span.h"
#include "memory/kv/layout.h"
#include "memory/tier.h"
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

// Logits of the last two tokens, then of one decode step.
std::vector<float> logits_after(Engine& engine, SequenceId sequence, std::span<const int32_t> tokens) {
  std::vector<float> rows;
  const auto keep = [&](int, std::span<const float> row) { rows.insert(rows.end(), row.begin(), row.end()); };
  engine.prefill(sequence, tokens, 2, true, keep);
  keep(0, engine.decode(sequence, 7, false));
  return rows;
}

uint64_t outside(const Engine& engine) { return engine.kv_bytes(Tier::host) + engine.kv_bytes(Tier::disk); }

void cut_again_and_again(const Model& model, Options options, Tier spilled_to) {
  const auto device = make_cpu_device({.threads = 2});
  Options plenty;
  plenty.device_bytes = 1ull << 30;
  plenty.context = options.context = kPositions;
  options.disk_directory = ::testing::TempDir();
  options.device_bytes = 256 << 10;
  Engine engine = raised_engine(model, options, *device);
  const SequenceId sequence = engine.open_sequence();
  std::vector<int32_t> text;
  for (const int cut : {1399, 1024, 700, 321, 64, 1, 0}) {
    SCOPED_TRACE(fmt::format("cut to {}", cut));
    const auto more = random_ids(40 + cut, 1480 - static_cast<int>(text.size()), model.spec.shape.vocab);
    engine.prefill(sequence, more, 0, false, [](int, std::span<const float>) {});
    text.insert(text.end(), more.begin(), more.end());
    ASSERT_GT(engine.kv_bytes(spilled_to), 0u) << "nothing has left the device";
    const uint64_t before = outside(engine);
    const int left = engine.truncate_sequence(sequence, cut);
    ASSERT_LE(left, cut);
    ASSERT_GT(left, cut - kPageTokens);
    ASSERT_EQ(engine.tokens(sequence), left);
    if (left < 700) {
      EXPECT_LT(outside(engine), before);
    }
    text.resize(left);
    const auto tail = random_ids(80 + cut, 70, model.spec.shape.vocab);
    text.insert(text.end(), tail.begin(), tail.end());
    const std::vector<float> after = logits_after(engine, sequence, tail);
    const auto other = make_cpu_device({.threads = 1});  // two engines may not share one
    Engine fresh = engine_for_test(model, plenty, *other);
    const std::vector<float> expected = logits_after(fresh, fresh.open_sequence(), text);
    ASSERT_EQ(after.size(), expected.size());
    ASSERT_EQ(std::memcmp(after.data(), expected.data(), after.size() * sizeof(float)), 0);
    text.push_back(7);
  }
  engine.close_sequence(sequence);
  EXPECT_EQ(outside(engine) + engine.kv_bytes(Tier::device), 0u) << "a page is held for nobody";
}

TEST(EngineCut, SpilledPagesGoAndTheRestAnswersAsBefore) {
  const Model model = open_for_test(write_tiny_model(tiny("cut"), ::testing::TempDir()));
  const uint64_t kv = 4ull * model.spec.shape.kv_width() * kPositions * model.spec.shape.layers;
  Options host, disk, both;
  host.host_bytes = (6ull << 20) + 2 * kv;
  disk.disk_bytes = 2 * kv;
  both.host_bytes = (6ull << 20) + kv / 3;
  both.disk_bytes = 2 * kv;
  {
    SCOPED_TRACE("to host memory");
    cut_again_and_again(model, host, Tier::host);
  }
  {
    SCOPED_TRACE("to disk");
    cut_again_and_again(model, disk, Tier::disk);
  }
  SCOPED_TRACE("to both");
  cut_again_and_again(model, both, Tier::disk);
}

// KV bytes that a decode step after 1400 tokens reads from disk; its logits.
uint64_t fetched(const Model& model, Options options, std::vector<float>* logits) {
  const auto device = make_cpu_device({.threads = 2});
  Engine engine = raised_engine(model, options, *device);
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

// What benches put before a long context: the logits after a prompt, and the bytes that it read from disk.
std::vector<float> prompt_logits(const Model& model, Options options, int window, uint64_t* read) {
  const auto device = make_cpu_device({.threads = 2});
  Engine engine = raised_engine(model, options, *device);
  engine.set_prompt_window(window);
  std::vector<float> logits;
  engine.prefill(engine.open_sequence(), random_ids(5, 1400, model.spec.shape.vocab), 1, false,
                 [&](int, std::span<const float> row) { logits.assign(row.begin(), row.end()); });
  *read = engine.traffic().bytes(Link::disk_read, Cause::kv_fetch);
  return logits;
}

TEST(EngineWindow, OfAPromptIsAsIfTheModelHadIt) {
  Model model = open_for_test(write_tiny_model(tiny("prompt_window"), ::testing::TempDir()));
  Options plenty, tight;
  plenty.device_bytes = 1ull << 30;
  plenty.context = tight.context = kPositions;
  plenty.chunk = tight.chunk = 128;
  tight.device_bytes = 256 << 10;
  tight.disk_bytes = 16 << 20;
  tight.disk_directory = ::testing::TempDir();
  uint64_t all = 0, in_window = 0, none = 0;
  const std::vector<float> whole = prompt_logits(model, tight, 0, &all);
  const std::vector<float> seen = prompt_logits(model, tight, 300, &in_window);
  EXPECT_EQ(seen, prompt_logits(model, plenty, 300, &none));
  EXPECT_NE(seen, whole);
  EXPECT_GT(in_window, 0u);
  EXPECT_LT(4 * in_window, 3 * all);
  EXPECT_EQ(none, 0u);
  for (LayerTensors& layer : model.spec.layers) layer.window = 300;
  EXPECT_EQ(seen, prompt_logits(model, plenty, 0, &none));
}

}  // namespace
}  // namespace spillway
