// Every family from a Hugging Face directory, on the `reference` device, the CPU and the CUDA kernels, against the
// logits that transformers computes in float64 (tests/oracle/make_hf_golden.py); and to the bit the same wherever
// weights and KV lie.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <fstream>

#include "kernels/backend.h"
#include "tests/support/golden.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/placed_run.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

const std::string kData = SPILLWAY_TEST_DATA "/hf/";

// The directory to open: for a variant, one made of its own configuration and the weights of another.
std::string directory_of(const std::string& name) {
  std::ifstream shared(kData + name + "/weights");
  std::string from;
  if (!(shared >> from)) return kData + name;
  const fs::path made = fs::path(::testing::TempDir()) / ("hf-" + name + "-" + std::to_string(getpid()));
  fs::remove_all(made);
  fs::create_directories(made);
  fs::create_symlink(fs::absolute(kData + name + "/config.json"), made / "config.json");
  fs::create_symlink(fs::absolute(kData + from + "/model.safetensors"), made / "model.safetensors");
  return made;
}

class HfGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = std::make_unique<Model>(open_for_test(directory_of(GetParam())));
    tokens_ = golden_tokens(SPILLWAY_TEST_DATA "/golden_tokens.txt");
    options_.device_bytes = 1ull << 28;
    options_.context = static_cast<int>(tokens_.size());
    options_.chunk = 200;
  }

  // The last `decoded` tokens are fed one by one.
  Divergence compare(Device& device, int decoded = 0) {
    const std::span<const int32_t> all(tokens_);
    const auto prompt = static_cast<int>(all.size()) - decoded;
    const PlacedWork work{.prompt = {all.begin(), all.begin() + prompt},
                          .decoded = {all.begin() + prompt, all.end()},
                          .prompt_rows = prompt};
    const std::vector<float> got = run_placed(*model_, device, options_, work).logits;
    return divergence_of(got, golden_logits(kData + GetParam() + "/logits.npy"), model_->spec.shape.vocab);
  }

  // The last tokens one by one, under the least budget, which leaves weights and KV on other tiers.
  void expect_same_spread(Device& device, std::span<const int32_t> all) {
    const PlacedWork work{.prompt = {all.begin(), all.end() - 8}, .decoded = {all.end() - 8, all.end()}};
    options_.context = 640;
    options_.unit_bytes = 4096;
    const PlacedRun whole = run_placed(*model_, device, options_, work);
    options_.disk_directory = ::testing::TempDir();
    options_.disk_bytes = 64ull << 20;
    options_.host_bytes = 12ull << 20;
    uint64_t budget = 0;
    for (uint64_t tried = 1ull << 17; budget == 0; tried += 1ull << 15) {  // the least that fits
      ASSERT_LT(tried, 1ull << 24);
      options_.device_bytes = tried + device.overhead_bytes();
      try {
        const PlacedRun spread = run_placed(*model_, device, options_, work);
        budget = tried;
        EXPECT_TRUE(spread.covered.layer_kv_in_two_tiers || spread.covered.layer_from_disk ||
                    spread.covered.weights_from_host || spread.covered.experts_move);
        EXPECT_TRUE(spread.logits == whole.logits) << "with a budget of " << budget;
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::fit) << error.what();
      }
    }
  }

  std::unique_ptr<Model> model_;
  std::vector<int32_t> tokens_;
  Options options_;
};

TEST_P(HfGolden, OfTheReferenceDevice) {
  const auto device = make_reference_device();
  const Divergence found = compare(*device);
  RecordProperty("mean_kl", std::to_string(found.mean));
  EXPECT_LT(found.most, 1e-5);
}

TEST_P(HfGolden, OfTheCpu) {
  for (CpuIsa isa : {CpuIsa::scalar, CpuIsa::best}) {
    const auto device = make_cpu_device({.threads = 2, .isa = isa});
    EXPECT_LT(compare(*device).mean, 1e-5);
  }
}

// The last tokens one by one, so that decoding is compared too. Prefill rounds queries and weights to halves.
TEST_P(HfGolden, OfTheCudaKernels) {
  begin_on_gpu_under_test(1);
  const auto device = gpu_under_test();
  options_.device_bytes = (1ull << 28) + (testing_a_gpu() ? device->overhead_bytes() : 0);
  options_.host_bytes = 1ull << 28;
  EXPECT_LT(compare(*device, 8).mean, 1e-5);
}

TEST_P(HfGolden, WhereverTheBytesLie) { expect_same_spread(*make_cpu_device({.threads = 2}), tokens_); }

TEST_P(HfGolden, WhereverTheBytesOfTheCudaKernelsLie) {
  constexpr size_t kFewTokens = 40;
  begin_on_gpu_under_test(2);
  const auto device = gpu_under_test();
  options_.device_bytes = (1ull << 28) + device->overhead_bytes();
  options_.host_bytes = 1ull << 28;
  expect_same_spread(*device, std::span(tokens_).first(kFewTokens));
}

// With KV in single precision, as transformers has it: what is left are float32's own roundings.
class HfGoldenSingle : public HfGolden {
 protected:
  void SetUp() override {
    HfGolden::SetUp();
    options_.kv_codec = KvCodec::f32;
  }
};

TEST_P(HfGoldenSingle, OfTheReferenceDevice) {
  const auto device = make_reference_device();
  EXPECT_LT(compare(*device, 8).most, 1e-9);
}

TEST_P(HfGoldenSingle, OfTheCpu) {
  for (CpuIsa isa : {CpuIsa::scalar, CpuIsa::best}) {
    const auto device = make_cpu_device({.threads = 2, .isa = isa});
    EXPECT_LT(compare(*device, 8).most, 1e-9);
  }
}

TEST_P(HfGoldenSingle, WhereverTheBytesLie) { expect_same_spread(*make_cpu_device({.threads = 2}), tokens_); }

std::string name_of(const ::testing::TestParamInfo<const char*>& directory) {
  std::string name = directory.param;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Families, HfGolden,
                         ::testing::Values("llama", "llama-llama3", "llama-yarn", "llama-linear", "mistral", "qwen2",
                                           "qwen3", "qwen3moe", "qwen3moe-sparse", "mixtral", "phi3", "gemma3", "opt"),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Families, HfGoldenSingle,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3", "qwen3moe", "qwen3moe-sparse",
                                           "mixtral", "mixtral-close", "phi3", "gemma3", "opt"),
                         name_of);

// A mixture's routers are discontinuous: where two experts are nearly tied, half precision chooses the other one.
class HfGoldenClose : public HfGolden {};

TEST_P(HfGoldenClose, HalfPrecisionChoosesAnotherExpert) {
  const auto device = make_reference_device();
  EXPECT_GT(compare(*device).most, 1e-2);
  options_.kv_codec = KvCodec::f32;
  EXPECT_LT(compare(*device).most, 1e-9);
}

// Which has products of its own roundings, but none of keys and values.
TEST_P(HfGoldenClose, OfTheCudaKernels) {
  begin_on_gpu_under_test(1);
  const auto device = gpu_under_test();
  options_.device_bytes = (1ull << 28) + (testing_a_gpu() ? device->overhead_bytes() : 0);
  options_.host_bytes = 1ull << 28;
  options_.kv_codec = KvCodec::f32;
  EXPECT_LT(compare(*device, 8).most, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, HfGoldenClose, ::testing::Values("mixtral-close"), name_of);

}  // namespace
}  // namespace spillway
