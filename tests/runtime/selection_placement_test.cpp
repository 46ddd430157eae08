// Decode steps that read chosen granules of the KV alone: what they answer follows from the choice, never from where
// the pages lie, what the device happens to keep, or how many threads compute. And it is a choice: reading nearly all
// is near to reading all, reading less is not the same.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "kernels/backend.h"
#include "runtime/engine.h"
#include "runtime/planner.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr uint64_t kPlenty = 1ull << 30;
constexpr uint64_t kStaging = (6ull << 20) + (64 << 10);  // the least that staging takes of the host
constexpr int kPrompt = 2 * kSpanTokens + 37;
constexpr int kDecoded = kPageTokens;  // a page closes on the way

#ifdef SPILLWAY_SANITIZED
constexpr int kCases = 1;  // of each policy
#else
constexpr int kCases = 5;
#endif

struct Policy {
  const char* name;
  KvSelection selection;
  KvCodec codec = KvCodec::f16;
  int head_dim = 32;
  int device_layers =
      5;  // fewer: the CPU beside computes the others, and the device's first ones choose for themselves
};

KvSelection rehearsal(int rank, int bits, int granule, int whole_layers, int ahead) {
  return {.selector = KvSelector::rehearsal,
          .rank = rank,
          .key_bits = bits,
          .granule_tokens = granule,
          .whole_layers = whole_layers,
          .ahead = ahead};
}

KvSelection oracle(int granule, int whole_layers) {
  return {.selector = KvSelector::oracle, .granule_tokens = granule, .whole_layers = whole_layers};
}

std::vector<Policy> policies() {
  return {{"oracle", oracle(1, 2)},
          {"oracle of all layers", oracle(4, 0)},
          {"rehearsal", rehearsal(16, 4, 4, 2, 1)},
          {"rehearsal of all layers", rehearsal(32, 16, 2, 0, 1)},
          {"rehearsal two layers ahead", rehearsal(24, 8, 1, 1, 2)},
          {"rehearsal of packed pages", rehearsal(16, 4, 4, 1, 1), KvCodec::kivi4},
          {"rehearsal of packed pages two layers ahead", rehearsal(40, 4, 4, 0, 2), KvCodec::kivi2, 80},
          {"oracle of packed pages", oracle(4, 0), KvCodec::q8},
          {"rehearsal of divided layers", rehearsal(16, 4, 4, 0, 1), KvCodec::f16, 32, 2}};
}

Model tiny(int head_dim) {
  return open_for_test(write_tiny_model({.layers = 5,
                                         .hidden = 96,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = head_dim,
                                         .ffn = 256,
                                         .vocab = 640,
                                         .type = DType::q8_0,
                                         .seed = 9,
                                         .name = "selection" + std::to_string(head_dim)},
                                        ::testing::TempDir()));
}

Options resident(const KvSelection& selection, KvCodec codec = KvCodec::f16) {
  Options options;
  options.device_bytes = kPlenty;
  options.context = kPrompt + kDecoded;
  options.kv_codec = codec;
  options.kv_edge_layers = 1;
  options.selection = selection;
  return options;
}

// What leaves the device goes, in turn, to disk, to the host, and to the host while that has room.
Options random_budgets(std::mt19937_64& random, int turn, Options options, uint64_t kv) {
  options.disk_directory = ::testing::TempDir();
  options.device_bytes = (random() % 4 == 0 ? random() % (2 * kv) : 0) + (256 << 10);
  if (turn % 3 != 0) options.host_bytes = kStaging + (turn % 3 == 1 ? 2 * kv : random() % (kv / 2));
  options.disk_bytes = random() % 6 == 0 ? random() % kv : 2 * kv;
  options.lookahead = static_cast<int>(random() % 4);
  options.unit_bytes = 1 + random() % (64 << 10);
  options.selection.hot_slots = 1 + static_cast<double>(random() % 20) / 10;
  return options;
}

TEST(SelectionPlacement, NeverChangesTheLogits) {
  std::map<std::string, int> counts;
  std::mt19937_64 random(31);
  const PlacedWork work{.prompt = random_ids(7, kPrompt, 640), .decoded = random_ids(8, kDecoded, 640)};
  const auto one_thread = make_cpu_device({.threads = 1});
  std::vector<std::vector<float>> answers;
  for (const Policy& policy : policies()) {
    SCOPED_TRACE(policy.name);
    const Model model = tiny(policy.head_dim);
    Options plenty = resident(policy.selection, policy.codec);
    if (policy.device_layers < 5) {
      plenty.device_layers = policy.device_layers;
      plenty.host_bytes = kPlenty;
    }
    const PlacedRun expected = run_placed(model, *one_thread, plenty, work);
    if (policy.head_dim == 32) {
      for (const auto& other : answers) EXPECT_NE(other, expected.logits) << "policies differ";
      answers.push_back(expected.logits);
    }
    const uint64_t kv = 4ull * model.spec.shape.kv_width() * kPrompt * 5;
    for (int i = 0; i < kCases; ++i) {
      Options options = random_budgets(random, counts["cases"], resident(policy.selection, policy.codec), kv);
      if (policy.device_layers < 5) {
        options.device_layers = policy.device_layers;
        if (!options.host_bytes) options.host_bytes = kStaging + kv;
      }
      const int threads = 1 + static_cast<int>(random() % 3);
      const PlacedRun run = run_raised(model, *make_cpu_device({.threads = threads}), options, work);
      counts["cases"] += 1;
      counts["a layer's KV in two tiers"] += run.covered.layer_kv_in_two_tiers;
      counts["granules fetched from host"] += run.covered.granules_fetched && run.covered.kv_on_host;
      counts["granules fetched from disk"] += run.covered.granules_fetched && run.covered.kv_on_disk;
      ASSERT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), expected.logits.size() * sizeof(float)), 0)
          << "case " << i << ": --device-mem " << *options.device_bytes << " --host-mem "
          << options.host_bytes.value_or(0) << " --disk-mem " << options.disk_bytes << " --hot-set "
          << options.selection.hot_slots << " threads " << threads;
    }
  }
  for (const auto& [what, count] : counts) std::printf("  %5d  %s\n", count, what.c_str());
  EXPECT_GE(4 * counts["granules fetched from host"], counts["cases"]);
  EXPECT_GE(6 * counts["granules fetched from disk"], counts["cases"]);
}

double mean_distance(const PlacedRun& a, const PlacedRun& b, int rows) {
  double sum = 0;
  const size_t first = a.logits.size() - static_cast<size_t>(rows) * 640;
  for (size_t i = first; i < a.logits.size(); ++i) sum += std::abs(a.logits[i] - b.logits[i]);
  return sum / rows;
}

// With all of a key for a partial key, the share that is read alone decides how near the answer is.
TEST(SelectionPlacement, ReadingMoreIsNearerToReadingAll) {
  const Model model = tiny(32);
  const auto device = make_cpu_device({.threads = 2});
  const PlacedWork work{.prompt = random_ids(7, kPrompt, 640), .decoded = random_ids(8, 20, 640), .prompt_rows = 1};
  const PlacedRun all = run_placed(model, *device, resident({}), work);
  const auto distance = [&](KvSelection selection, double share) {
    selection.share = share;
    return mean_distance(run_placed(model, *device, resident(selection), work), all, 20);
  };
  for (const KvSelection& selection : {oracle(1, 0), rehearsal(32, 16, 1, 0, 1)}) {
    const double tenth = distance(selection, 0.15), half = distance(selection, 0.5), most = distance(selection, 0.98);
    std::printf("%s: %.4f, %.4f, %.4f\n", kKvSelectorNames[static_cast<int>(selection.selector)], tenth, half, most);
    EXPECT_GT(most, 0.0);
    EXPECT_LT(most, half / 2);
    EXPECT_LT(half, tenth);
    EXPECT_EQ(distance(selection, 1.0), 0.0) << "everything is read as if nothing were chosen";
  }
}

// With the least of the device that fits: there nearly all KV is elsewhere.
Engine tight_engine(const Model& model, Options options, Device& device) {
  options.device_bytes = 128 << 10;
  return raised_engine(model, options, device);
}

// What crosses the link is what the hot set misses, granule by granule; of layers that are read whole all of it.
TEST(SelectionPlacement, OnlyWhatIsMissingMoves) {
  const Model model = tiny(32);
  const auto device = make_cpu_device({.threads = 1});
  Options options = resident(oracle(4, 0));
  options.host_bytes = 64 << 20;
  Engine engine = tight_engine(model, options, *device);
  ASSERT_TRUE(engine.plan().spills_kv());
  const SequenceId sequence = engine.open_sequence();
  engine.prefill(sequence, random_ids(1, kPrompt, 640), 1, true, [](int, std::span<const float>) {});
  uint64_t before = engine.traffic().bytes(Link::host_to_device, Cause::kv_fetch);
  ChosenCounts seen = engine.chosen_counts();
  EXPECT_EQ(seen.granules, 0u) << "prompts read everything";
  uint64_t hits = 0;
  for (int step = 0; step < 12; ++step) {
    engine.decode(sequence, 5 + step, step < 11);
    const uint64_t moved = engine.traffic().bytes(Link::host_to_device, Cause::kv_fetch) - before;
    const ChosenCounts now = engine.chosen_counts();
    const uint64_t missed = (now.granules - now.in_place - now.hits) - (seen.granules - seen.in_place - seen.hits);
    EXPECT_EQ(moved, missed * engine.plan().kv_layout.granule_bytes(false)) << "step " << step;
    EXPECT_EQ(now.granules - seen.granules, 5u * 2 * granule_choice(options.selection, kPrompt + step + 1).count);
    hits += now.hits - seen.hits;
    before += moved;
    seen = now;
  }
  EXPECT_GT(hits, 0u) << "what was chosen before is chosen again";
}

// Nothing is read that was kept of what a cut took: of unpacked pages all is as if it had never been; of packed ones as
// if nothing had left the device, where nothing is kept beside the pages.
TEST(SelectionPlacement, OfWhatWasCutNothingIsRead) {
  const Model model = tiny(32);
  const auto device = make_cpu_device({.threads = 2});
  const std::vector<int32_t> first = random_ids(1, 600, 640), second = random_ids(2, 400, 640);
  for (const KvCodec codec : {KvCodec::f16, KvCodec::kivi4}) {
    Options options = resident(rehearsal(32, 16, 4, 0, 1), codec);
    options.chunk = kPageTokens;
    options.host_bytes = 64 << 20;
    const auto write = [](Engine& on, SequenceId sequence, std::span<const int32_t> tokens) {
      on.prefill(sequence, tokens, 1, true, [](int, std::span<const float>) {});
    };
    const auto decode = [](Engine& on, SequenceId sequence) {
      std::vector<float> rows;
      for (int step = 0; step < 8; ++step) {
        const std::span<const float> row = on.decode(sequence, step, step < 7);
        rows.insert(rows.end(), row.begin(), row.end());
      }
      return rows;
    };
    Engine cut = tight_engine(model, options, *device);
    const SequenceId sequence = cut.open_sequence();
    write(cut, sequence, first);
    decode(cut, sequence);
    ASSERT_EQ(cut.truncate_sequence(sequence, 130), 128);
    write(cut, sequence, second);
    const auto other = make_cpu_device({.threads = 1});  // two engines may not share one
    const bool packs = codec != KvCodec::f16;
    Options roomy = options;
    roomy.host_bytes.reset();
    Engine fresh = packs ? engine_for_test(model, roomy, *other) : tight_engine(model, options, *other);
    const SequenceId anew = fresh.open_sequence();
    write(fresh, anew, {first.data(), packs ? 600u : 128u});
    if (packs) {
      decode(fresh, anew);
      ASSERT_EQ(fresh.truncate_sequence(anew, 130), 128);
    }
    write(fresh, anew, second);
    EXPECT_EQ(decode(cut, sequence), decode(fresh, anew)) << info(codec).name;
    EXPECT_GT(cut.chosen_counts().granules, cut.chosen_counts().in_place) << "not all was on the device";
  }
}

}  // namespace
}  // namespace spillway
