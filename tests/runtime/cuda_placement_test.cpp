// Placement never changes the answer on a GPU either, whatever the format of the weights: the whole engine on the CUDA
// kernels, under emulation with copies that are real and streams that run in random orders, or on a GPU. And the answer
// is the CPU's, within what its kernels round.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

constexpr uint64_t kPlenty = 1ull << 30;
constexpr uint64_t kStaging = (6ull << 20) + (64 << 10);  // the least that staging takes of the host
constexpr uint64_t kLeastDevice = 128 << 10;              // raised just as far as is needed
constexpr int kShortPrompt = 3 * kPageTokens + 21;
constexpr int kLongPrompt = kSpanTokens + 37;  // two spans
constexpr int kPromptOfFormats = 24;
constexpr int kDecoded = 4;  // a layer comes, is captured, and is replayed twice

#ifdef SPILLWAY_SANITIZED
constexpr bool kSanitized = true;
constexpr int kCasesPerModel = 1;
#else
constexpr bool kSanitized = false;
constexpr int kCasesPerModel = 4;
#endif

TinyModelOptions tiny(int i) {
  constexpr DType kTypes[] = {DType::q4_0, DType::q8_0, DType::f16, DType::q4_1, DType::q4_0};
  constexpr int kLayers[] = {4, 3, 4, 3, 2};
  return {.layers = kLayers[i],
          .hidden = 64,
          .heads = i >= 3 ? 2 : 4,
          .kv_heads = i == 1   ? 4
                      : i >= 3 ? 1
                               : 2,
          .head_dim = i == 4 ? 256 : 32,
          .ffn = 160,
          .vocab = 640,
          .context = 4096,
          .type = kTypes[i],
          .tied = i % 2 == 0,
          .seed = 300u + i,
          .name = "cuda_placement" + std::to_string(i)};
}

// Layers enough that their KV is more than the ring it would come through: then some of it leaves the device.
TinyModelOptions deep_model() {
  TinyModelOptions deep = tiny(2);
  deep.layers = 6;
  deep.heads = 2;
  deep.kv_heads = 1;
  deep.ffn = 32;
  deep.vocab = 320;
  deep.name = "cuda_placement_deep";
  return deep;
}

struct Case {
  Options options;
  uint64_t beyond = 0;  // on the device, beyond the least that fits
  bool graphs = true;
  uint64_t order = 0;  // seed of the order in which streams run
};

// Budgets between nothing and everything. A host that has nothing but staging leaves the rest to the disk.
Case random_case(std::mt19937_64& random, int prompt, uint64_t weights, uint64_t kv, uint64_t context) {
  const auto share = [&](uint64_t of) { return of * (random() % 1000) / 1000; };
  Case made;
  Options& options = made.options;
  options.disk_directory = ::testing::TempDir();
  // A GPU's context is many times a tiny model: budgets count from there.
  options.device_bytes = context + kLeastDevice;
  options.host_bytes = kStaging + (random() % 3 == 0 ? 0 : share(random() % 2 == 0 ? kv / 2 : weights + kv));
  options.disk_bytes = random() % 4 == 0 ? share(kv) : 2 * kv;
  made.beyond = random() % 2 == 0 ? share(weights + kv) : 0;
  options.lookahead = static_cast<int>(random() % 4);
  options.unit_bytes = 1 + random() % (64 << 10);
  options.context = prompt + kDecoded + static_cast<int>(random() % 300);
  options.chunk = 96;
  options.logit_rows = random() % 2 == 0 ? 1 : 64;
  made.graphs = random() % 4 != 0;
  made.order = random();
  return made;
}

double norm_of(const std::vector<float>& values) {
  double sum = 0;
  for (float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

double distance(const std::vector<float>& values, const std::vector<float>& from) {
  std::vector<float> difference(from.size());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = values[i] - from[i];
  return norm_of(difference) / norm_of(from);
}

class CudaPlacement : public testing::Test {
 protected:
  void SetUp() override { begin_on_gpu_under_test(1); }

  void run_cases(const TinyModelOptions& wanted, int prompt, int cases, KvCodec codec = KvCodec::f16) {
    SCOPED_TRACE(wanted.name + " " + info(codec).name);
    const Model model = open_for_test(write_tiny_model(wanted, ::testing::TempDir()));
    const ModelShape& shape = model.spec.shape;
    const PlacedWork work{.prompt = random_ids(7, prompt, shape.vocab),
                          .decoded = random_ids(8, kDecoded, shape.vocab),
                          .prompt_rows = 20};
    const uint64_t context = gpu_under_test()->overhead_bytes();
    Options everything;
    everything.device_bytes = kPlenty + context;
    everything.host_bytes = kPlenty;
    everything.context = prompt + kDecoded;
    everything.chunk = 96;
    everything.kv_codec = codec;
    everything.kv_edge_layers = 0;
    const PlacedRun expected = run_placed(model, *gpu_under_test(false), everything, work);
    ASSERT_EQ(expected.logits.size(), static_cast<size_t>(work.prompt_rows + kDecoded) * shape.vocab);

    const PlacedRun cpu = run_placed(model, *make_cpu_device({.threads = 1}), everything, work);
    const double error = distance(expected.logits, cpu.logits);
    std::printf("%s %s: %.2g off the CPU's logits\n", wanted.name.c_str(), info(codec).name, error);
    // Where weights are quantised, both round activations to int8, after sums in different orders: a code may differ.
    // So may the code of a key or value.
    const bool exact = (wanted.type == DType::f16 || wanted.type == DType::bf16) && !packs(codec);
    const double tolerance = exact ? 0.002 : 0.04;
    EXPECT_LT(error, tolerance);

    if (!testing_a_gpu()) emulation::restart(wanted.seed);
    const PlacedRun replayed = run_placed(model, *gpu_under_test(), everything, work);
    ASSERT_EQ(std::memcmp(replayed.logits.data(), expected.logits.data(), expected.logits.size() * sizeof(float)), 0)
        << "as graphs";
    EXPECT_TRUE(testing_a_gpu() || emulation::host_calls().graphs > 0);

    // Divided with a CPU, whose kernels round otherwise, the answer is that of the division.
    const int device_layers = static_cast<int>(wanted.seed) % shape.layers;
    Options divided = everything;
    divided.device_layers = device_layers;
    const PlacedRun expected_divided = run_placed(model, *gpu_under_test(false), divided, work);
    ASSERT_TRUE(expected_divided.covered.layers_on_cpu);
    EXPECT_LT(distance(expected_divided.logits, cpu.logits), tolerance);

    const uint64_t kv = 4ull * shape.kv_width() * prompt * shape.layers;
    std::mt19937_64 random(wanted.seed);
    for (int i = 0; i < cases; ++i) {
      Case one = random_case(random, prompt, model.checkpoint.weight_bytes(), kv, context);
      one.options.kv_codec = codec;
      one.options.kv_edge_layers = 0;
      if (!testing_a_gpu()) emulation::restart(one.order);
      const bool divide = random() % 3 == 0;
      if (divide) one.options.device_layers = device_layers;
      const PlacedRun& wanted_run = divide ? expected_divided : expected;
      const PlacedRun run = run_raised(model, *gpu_under_test(one.graphs), one.options, work, one.beyond);
      cover(run.covered);
      if (!testing_a_gpu()) counts_["layers replayed as graphs"] += emulation::host_calls().graphs > 0;
      ASSERT_EQ(std::memcmp(run.logits.data(), wanted_run.logits.data(), run.logits.size() * sizeof(float)), 0)
          << "case " << i << ": --device-mem " << *one.options.device_bytes << " --host-mem " << *one.options.host_bytes
          << " --disk-mem " << one.options.disk_bytes << " units of " << one.options.unit_bytes << " lookahead "
          << one.options.lookahead << " rows of logits " << one.options.logit_rows << " graphs " << one.graphs
          << " order " << one.order << " -ngl " << one.options.device_layers.value_or(shape.layers);
    }
  }

  void cover(const Covered& covered) {
    counts_["cases"] += 1;
    counts_["a layer's KV in two tiers"] += covered.layer_kv_in_two_tiers;
    counts_["KV on host"] += covered.kv_on_host;
    counts_["KV on disk"] += covered.kv_on_disk;
    counts_["weights from host"] += covered.weights_from_host;
    counts_["weights from disk"] += covered.layer_from_disk;
    counts_["layers on the CPU"] += covered.layers_on_cpu;
  }

  std::map<std::string, int> counts_;
};

TEST_F(CudaPlacement, NeverChangesTheLogits) {
  for (int i = 0; i < 3; ++i) run_cases(tiny(i), kShortPrompt, kCasesPerModel);
  run_cases(tiny(3), kLongPrompt, (kCasesPerModel + 1) / 2);
  run_cases(tiny(4), kShortPrompt, (kCasesPerModel + 1) / 2);
  for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  for (const char* what : {"a layer's KV in two tiers", "KV on host", "KV on disk", "weights from host",
                           "weights from disk", "layers on the CPU"}) {
    EXPECT_GE(counts_[what], kCasesPerModel / 2) << what;
  }
  if (!testing_a_gpu()) {
    EXPECT_GE(counts_["layers replayed as graphs"], kCasesPerModel / 2);
    EXPECT_LT(counts_["layers replayed as graphs"], counts_["cases"]);
  }
}

TEST_F(CudaPlacement, NeverChangesTheLogitsOfPackedKv) {
  const TinyModelOptions deep = deep_model();
  TinyModelOptions wide = deep;
  wide.head_dim = 80;
  wide.name = "cuda_placement_packed_wide";
  for (const KvCodec codec : {KvCodec::q8, KvCodec::q4, KvCodec::kivi4, KvCodec::kivi2}) {
    if (kSanitized && codec != KvCodec::q8 && codec != KvCodec::kivi2) continue;
    const TinyModelOptions& model = codec == KvCodec::kivi2 ? tiny(2) : codec == KvCodec::q4 ? deep : wide;
    // As much is packed of any: the newest pages of KIVI's codecs are not, and stay on the device.
    const int newest = newest_rows(codec) * kPageTokens;
    run_cases(model, kShortPrompt + newest, (kCasesPerModel + 1) / 2, codec);
  }
  if (!kSanitized) run_cases(tiny(1), kLongPrompt, 1, KvCodec::kivi4);
  for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  EXPECT_GE(counts_["KV on host"], kCasesPerModel / 2);
  EXPECT_GE(counts_["a layer's KV in two tiers"], kCasesPerModel / 2);
}

TEST_F(CudaPlacement, NeverChangesTheLogitsOfKvInSinglePrecision) {
  run_cases(deep_model(), kShortPrompt + 2 * kPageTokens, 2 * kCasesPerModel, KvCodec::f32);
  for (const auto& [what, count] : counts_) std::printf("  %5d  %s\n", count, what.c_str());
  EXPECT_GE(counts_["a layer's KV in two tiers"], kCasesPerModel / 2);
}

// The block formats that the models above have not, on a model whose rows are one of their blocks.
TEST_F(CudaPlacement, EveryFormat) {
  for (const DType type : {DType::bf16, DType::q5_0, DType::q5_1, DType::iq4_nl, DType::q2_k, DType::q3_k, DType::q4_k,
                           DType::q5_k, DType::q6_k, DType::iq4_xs}) {
    run_cases({.layers = 1,
               .hidden = 256,
               .heads = 4,
               .kv_heads = 2,
               .head_dim = 64,
               .ffn = 256,
               .vocab = 320,
               .context = 4096,
               .type = type,
               .tied = false,
               .seed = 400u + static_cast<unsigned>(type),
               .name = std::string("cuda_placement_") + info(type).name},
              kPromptOfFormats, 1);
  }
}

}  // namespace
}  // namespace spillway
