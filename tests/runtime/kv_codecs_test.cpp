// KV packed, or in single precision, in the whole engine: no placement changes the answer, what moves are its bytes, a
// cut before anything is packed is as if nothing had been there, one further back leaves the same whatever the
// placement, and fewer bits are further from half precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "kernels/backend.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr uint64_t kPlenty = 1ull << 30;
constexpr uint64_t kStaging = (6ull << 20) + (64 << 10);  // the least that staging takes of the host
constexpr int kPrompt = 2 * kSpanTokens + 37;
constexpr int kDecoded = kPageTokens;  // a page closes on the way
constexpr KvCodec kPackers[] = {KvCodec::q8, KvCodec::q4, KvCodec::kivi4, KvCodec::kivi2};

#ifdef SPILLWAY_SANITIZED
constexpr int kCases = 2;
#else
constexpr int kCases = 10;
#endif

Model tiny(const char* name, int layers, int head_dim, DType type = DType::q8_0) {
  return open_for_test(write_tiny_model({.layers = layers,
                                         .hidden = 96,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = head_dim,
                                         .ffn = 256,
                                         .vocab = 640,
                                         .type = type,
                                         .seed = 9,
                                         .name = name},
                                        ::testing::TempDir()));
}

Options resident(KvCodec codec, int edge_layers) {
  Options options;
  options.device_bytes = kPlenty;
  options.context = kPrompt + kDecoded;
  options.kv_codec = codec;
  options.kv_edge_layers = edge_layers;
  return options;
}

TEST(KvCodecs, PlacementNeverChangesTheLogits) {
  std::map<std::string, int> counts;
  std::mt19937_64 random(3);
  for (const int head_dim : {32, 80}) {
    const Model model = tiny(head_dim == 32 ? "codecs32" : "codecs80", 4, head_dim);
    const PlacedWork work{.prompt = random_ids(7, kPrompt, 640), .decoded = random_ids(8, kDecoded, 640)};
    const auto one_thread = make_cpu_device({.threads = 1});
    std::vector<std::vector<float>> answers;
    for (const KvCodec codec : kAllKvCodecs) {
      if (codec == KvCodec::f16) continue;
      const int edge = codec == KvCodec::q4 ? 1 : 0;
      const PlacedRun expected = run_placed(model, *one_thread, resident(codec, edge), work);
      for (const auto& other : answers) EXPECT_NE(other, expected.logits) << "codecs differ";
      answers.push_back(expected.logits);
      const uint64_t kv = 4ull * model.spec.shape.kv_width() * kPrompt * 4;
      for (int i = 0; i < kCases; ++i) {
        Options options = resident(codec, edge);
        options.disk_directory = ::testing::TempDir();
        options.device_bytes = (i % 4 == 0 ? random() % (2 * kv) : 0) + (256 << 10);
        if (random() % 2 == 0) options.host_bytes = kStaging + random() % kv;
        options.disk_bytes = random() % 6 == 0 ? random() % kv : kv;
        options.lookahead = static_cast<int>(random() % 4);
        options.unit_bytes = 1 + random() % (64 << 10);
        const int threads = 1 + static_cast<int>(random() % 3);
        const PlacedRun run = run_raised(model, *make_cpu_device({.threads = threads}), options, work);
        counts["cases"] += 1;
        counts["a layer's KV in two tiers"] += run.covered.layer_kv_in_two_tiers;
        counts["KV on host"] += run.covered.kv_on_host;
        counts["KV on disk"] += run.covered.kv_on_disk;
        ASSERT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), expected.logits.size() * sizeof(float)), 0)
            << info(codec).name << " case " << i << ": --host-mem " << options.host_bytes.value_or(0) << " --disk-mem "
            << options.disk_bytes << " units of " << options.unit_bytes << " lookahead " << options.lookahead;
      }
    }
  }
  for (const auto& [what, count] : counts) std::printf("  %5d  %s\n", count, what.c_str());
  EXPECT_GE(2 * counts["a layer's KV in two tiers"], counts["cases"]);
}

// A span of text, in a host of its own, comes over once for each step: all of it packed but sinks and the open page.
TEST(KvCodecs, WhatMovesArePackedBytes) {
  const Model model = tiny("codecs_bytes", 4, 64);
  const auto device = make_cpu_device({.threads = 1});
  std::map<KvCodec, uint64_t> fetched, spilled, kept;
  for (const KvCodec codec : {KvCodec::f32, KvCodec::f16, KvCodec::q8, KvCodec::kivi4, KvCodec::kivi2}) {
    Options options = resident(codec, 0);
    options.context = 2 * kSpanTokens;
    options.chunk = 64;
    options.host_bytes = 64 << 20;
    options.device_bytes = 1 << 20;
    Engine engine = raised_engine(model, options, *device);
    if (engine.plan().kv_device_rows_per_layer > 4) ADD_FAILURE() << "most is to leave the device";
    const SequenceId sequence = engine.open_sequence();
    engine.prefill(sequence, random_ids(1, 2 * kSpanTokens - 5, 640), 1, false, [](int, std::span<const float>) {});
    kept[codec] = engine.kv_bytes(Tier::host);
    const uint64_t before = engine.traffic().bytes(Link::host_to_device, Cause::kv_fetch);
    spilled[codec] = engine.traffic().bytes(Link::device_to_host, Cause::kv_spill);
    engine.decode(sequence, 5, false);
    fetched[codec] = engine.traffic().bytes(Link::host_to_device, Cause::kv_fetch) - before;
    EXPECT_EQ(spilled[codec], kept[codec]) << info(codec).name;
    EXPECT_GE(fetched[codec], kept[codec]) << info(codec).name;
  }
  // Rows are whole blocks of the disk: 64 KiB of single precision, 32 of half, 20, 12 and 8 packed.
  EXPECT_GE(kept[KvCodec::f32], 2 * kept[KvCodec::f16]);
  EXPECT_GE(fetched[KvCodec::f32], 2 * fetched[KvCodec::f16]);
  EXPECT_LT(kept[KvCodec::q8], kept[KvCodec::f16] * 21 / 32);
  EXPECT_LT(kept[KvCodec::kivi4], kept[KvCodec::f16] * 13 / 32);
  EXPECT_LT(kept[KvCodec::kivi2], kept[KvCodec::f16] * 9 / 32);
  EXPECT_LT(fetched[KvCodec::kivi4], fetched[KvCodec::f16] / 2);
}

// The logits after tokens that follow on what a sequence has.
std::vector<float> last_row(Engine& engine, SequenceId sequence, std::span<const int32_t> tokens) {
  std::vector<float> row;
  engine.prefill(sequence, tokens, 1, false,
                 [&](int, std::span<const float> logits) { row.assign(logits.begin(), logits.end()); });
  return row;
}

TEST(KvCodecs, ACutBeforeAnythingIsPackedIsAsIfNothingHadBeenThere) {
  const Model model = tiny("codecs_cut", 3, 32);
  const auto device = make_cpu_device({.threads = 2});
  const std::vector<int32_t> first = random_ids(1, 300, 640), second = random_ids(2, 200, 640);
  for (const KvCodec codec : kPackers) {
    Options options = resident(codec, 0);
    options.chunk = kPageTokens;
    Engine engine = engine_for_test(model, options, *device);
    for (const int cut : {299, 260}) {
      const SequenceId sequence = engine.open_sequence();
      last_row(engine, sequence, first);
      EXPECT_EQ(engine.truncate_sequence(sequence, cut), cut);
      const std::vector<float> got = last_row(engine, sequence, second);
      engine.close_sequence(sequence);
      const SequenceId anew = engine.open_sequence();
      last_row(engine, anew, std::span(first).first(static_cast<size_t>(cut)));
      EXPECT_EQ(got, last_row(engine, anew, second)) << info(codec).name << ", cut at " << cut;
      engine.close_sequence(anew);
    }
  }
}

TEST(KvCodecs, ACutLeavesTheSameWhateverThePlacement) {
  const Model model = tiny("codecs_cut", 3, 32);
  const std::vector<int32_t> first = random_ids(1, 600, 640), second = random_ids(2, 200, 640);
  for (const KvCodec codec : kPackers) {
    const auto answer = [&](bool spills) {
      Options options = resident(codec, 0);
      options.chunk = kPageTokens;
      const auto device = make_cpu_device({.threads = 2});
      if (spills) {
        options.host_bytes = 64 << 20;
        options.device_bytes = 1 << 20;
      }
      Engine engine = spills ? raised_engine(model, options, *device) : engine_for_test(model, options, *device);
      EXPECT_EQ(engine.plan().kv_host_slots.packed > 0, spills);
      const SequenceId sequence = engine.open_sequence();
      last_row(engine, sequence, first);
      EXPECT_EQ(engine.truncate_sequence(sequence, 290), 256) << "a packed page goes as a whole";
      return last_row(engine, sequence, second);
    };
    EXPECT_EQ(answer(true), answer(false)) << info(codec).name;
  }
}

TEST(KvCodecs, HeadsThatCannotBePackedAreRefused) {
  Model model = tiny("codecs_odd", 2, 16, DType::f16);
  model.spec.shape.head_dim = 12;
  const auto device = make_cpu_device({.threads = 1});
  const Options options = resident(KvCodec::kivi4, 0);
  try {
    engine_for_test(model, options, *device);
    FAIL() << "heads of 12 elements";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_NE(std::string(error.what()).find("--kv-type kivi4"), std::string::npos) << error.what();
  }
}

double divergence(std::span<const float> of, std::span<const float> from) {
  const auto log_sum = [](std::span<const float> row) {
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float x : row) sum += std::exp(x - top);
    return top + std::log(sum);
  };
  const double of_sum = log_sum(of), from_sum = log_sum(from);
  double total = 0;
  for (size_t i = 0; i < of.size(); ++i) total += std::exp(of[i] - of_sum) * ((of[i] - of_sum) - (from[i] - from_sum));
  return total;
}

// Of decode steps, each of which reads packed pages and nothing else of the past.
TEST(KvCodecs, FewerBitsAreFurtherFromHalfPrecision) {
  const Model model = tiny("codecs_quality", 4, 64);
  const auto device = make_cpu_device({.threads = 2});
  const PlacedWork work{.prompt = random_ids(7, kSpanTokens, 640), .decoded = random_ids(8, 40, 640), .prompt_rows = 1};
  const PlacedRun exact = run_placed(model, *device, resident(KvCodec::f16, 0), work);
  const auto mean_of = [&](KvCodec codec, int edge_layers) {
    const PlacedRun run = run_placed(model, *device, resident(codec, edge_layers), work);
    double sum = 0;
    for (size_t row = 1; row <= work.decoded.size(); ++row) {
      sum += divergence({exact.logits.data() + row * 640, 640}, {run.logits.data() + row * 640, 640});
    }
    return sum / static_cast<double>(work.decoded.size());
  };
  const double q8 = mean_of(KvCodec::q8, 0), kivi4 = mean_of(KvCodec::kivi4, 0), kivi2 = mean_of(KvCodec::kivi2, 0);
  std::printf("KL to fp16: q8 %.3g, kivi4 %.3g, kivi2 %.3g\n", q8, kivi4, kivi2);
  EXPECT_GT(q8, 0.0);
  EXPECT_LT(8 * q8, kivi4);
  EXPECT_LT(4 * kivi4, kivi2);
  EXPECT_EQ(mean_of(KvCodec::kivi2, 2), 0.0) << "all layers are edges";
}

}  // namespace
}  // namespace spillway
