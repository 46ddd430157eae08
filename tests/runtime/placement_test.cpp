// Placement never changes the answer (ARCHITECTURE.md, idea 6): whatever the budgets, the tiers, the units, the
// lookahead and the threads, the same device gives the same logits to the bit.
#include <gtest/gtest.h>

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
constexpr int kPrompt = 4 * kSpanTokens + 37;             // five spans
constexpr int kDecoded = 3;

struct Histogram {
  int cases = 0;
  std::map<std::string, int> counts;

  void add(const Covered& covered, int threads) {
    ++cases;
    counts["five spans or more"] += covered.spans >= 5;
    counts["a layer's KV in two tiers or more and a layer from disk"] +=
        covered.layer_kv_in_two_tiers && covered.layer_from_disk;
    counts["KV on host"] += covered.kv_on_host;
    counts["KV on disk"] += covered.kv_on_disk;
    counts["KV on host and disk"] += covered.kv_on_host && covered.kv_on_disk;
    counts["weights from host"] += covered.weights_from_host;
    counts["weights from disk"] += covered.layer_from_disk;
    counts["layers computed beside the device"] += covered.layers_on_cpu;
    counts[std::to_string(threads) + " threads"] += 1;
  }
  void print() const {
    std::printf("%d cases\n", cases);
    for (const auto& [what, count] : counts) std::printf("  %5d  %s\n", count, what.c_str());
  }
};

// Budgets between nothing and everything; a device budget too small for the rest is raised until a plan is found.
Options random_budgets(std::mt19937_64& random, uint64_t weights, uint64_t kv) {
  const auto share = [&](uint64_t of) { return of * (random() % 1000) / 1000; };
  Options options;
  options.disk_directory = ::testing::TempDir();
  // Most budgets start small and are raised just as far as is needed: there everything moves.
  options.device_bytes = (random() % 4 == 0 ? share(weights + kv) : 0) + (256 << 10);
  if (random() % 2 == 0) options.host_bytes = kStaging + share(random() % 2 == 0 ? kv / 4 : weights + kv);
  options.disk_bytes = random() % 6 == 0 ? share(kv) : 2 * kv;
  options.lookahead = static_cast<int>(random() % 4);
  options.unit_bytes = 1 + random() % (64 << 10);
  options.context = kPrompt + kDecoded + static_cast<int>(random() % 300);
  if (options.host_bytes && random() % 2 == 0) options.device_layers = static_cast<int>(random() % 4);
  return options;
}

// At least 200 in all; the sanitizers look at the same code, ten times slower.
#ifdef SPILLWAY_SANITIZED
constexpr int kCasesPerModel = 3;
#else
constexpr int kCasesPerModel = 26;
#endif

uint64_t kv_bytes(const ModelShape& shape, int positions) { return 4ull * shape.kv_width() * positions * shape.layers; }

void run_cases(const TinyModelOptions& shape_wanted, Histogram& histogram) {
  SCOPED_TRACE(shape_wanted.name);
  const std::string path = write_tiny_model(shape_wanted, ::testing::TempDir());
  const Model model = open_for_test(path);
  const ModelShape& shape = model.spec.shape;
  const PlacedWork work{.prompt = random_ids(7, kPrompt, shape.vocab), .decoded = random_ids(8, kDecoded, shape.vocab)};
  Options everything;
  everything.device_bytes = kPlenty;
  everything.context = kPrompt + kDecoded;
  const auto one_thread = make_cpu_device({.threads = 1});
  const PlacedRun expected = run_placed(model, *one_thread, everything, work);
  ASSERT_EQ(expected.logits.size(), static_cast<size_t>(work.prompt_rows + kDecoded) * shape.vocab);

  std::mt19937_64 random(shape_wanted.seed);
  for (int i = 0; i < kCasesPerModel; ++i) {
    Options options = random_budgets(random, model.checkpoint.weight_bytes(), kv_bytes(shape, kPrompt));
    const int threads = 1 + static_cast<int>(random() % 3);
    const auto device = make_cpu_device({.threads = threads});
    const PlacedRun run = run_raised(model, *device, options, work);
    histogram.add(run.covered, threads);
    ASSERT_EQ(std::memcmp(run.logits.data(), expected.logits.data(), expected.logits.size() * sizeof(float)), 0)
        << "case " << i << ": --device-mem " << *options.device_bytes << " --host-mem "
        << options.host_bytes.value_or(0) << " --disk-mem " << options.disk_bytes << " units of " << options.unit_bytes
        << " lookahead " << options.lookahead << " threads " << threads << " -ngl "
        << options.device_layers.value_or(shape.layers);
  }
}

std::vector<TinyModelOptions> models() {
  std::vector<TinyModelOptions> list;
  const DType types[] = {DType::q4_0, DType::q4_1, DType::q8_0, DType::f16,  DType::bf16,
                         DType::f32,  DType::q4_0, DType::q8_0, DType::q5_0, DType::q5_1};
  const int heads[] = {4, 4, 6, 4, 2, 3, 8, 2, 4, 2};
  const int kv_heads[] = {2, 4, 2, 1, 2, 3, 2, 1, 2, 2};
  const int dims[] = {32, 16, 16, 64, 32, 16, 16, 80, 16, 32};
  for (int i = 0; i < 10; ++i) {
    list.push_back({.layers = 2 + i % 3,
                    .hidden = 64 + 32 * (i % 2),
                    .heads = heads[i],
                    .kv_heads = kv_heads[i],
                    .head_dim = dims[i],
                    .ffn = 512 + 96 * (i % 3),
                    .vocab = 640,
                    .context = 4096,
                    .type = types[i],
                    .tied = i % 2 == 0,
                    .seed = 100u + i,
                    .parts = i == 5 ? 2 : 1,
                    .name = "placement" + std::to_string(i)});
  }
  // Blocks of 256: rows of 144 to 210 bytes, two types to a model as in the mixtures that people have.
  list.push_back({.layers = 4,
                  .hidden = 256,
                  .heads = 4,
                  .kv_heads = 2,
                  .head_dim = 64,
                  .ffn = 512,
                  .vocab = 640,
                  .context = 4096,
                  .type = DType::q4_k,
                  .more_bits_type = DType::q6_k,
                  .tied = true,
                  .seed = 110,
                  .name = "placement-k"});
  return list;
}

TEST(Placement, NeverChangesTheLogits) {
  Histogram histogram;
  const std::vector<TinyModelOptions> all = models();
  for (const TinyModelOptions& model : all) run_cases(model, histogram);
  histogram.print();
  EXPECT_EQ(histogram.cases, static_cast<int>(all.size()) * kCasesPerModel);
  EXPECT_EQ(histogram.counts["five spans or more"], histogram.cases);
  EXPECT_GE(8 * histogram.counts["layers computed beside the device"], histogram.cases);
  EXPECT_GE(2 * histogram.counts["a layer's KV in two tiers or more and a layer from disk"], histogram.cases);
}

}  // namespace
}  // namespace spillway
