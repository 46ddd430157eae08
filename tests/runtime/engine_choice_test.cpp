// The likeliest tokens of a row, chosen where the logits are, lead to the tokens that whole rows lead to.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda_device.h"
#include "runtime/sampler.h"
#include "tests/support/cuda_emulation/runtime.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

constexpr int kPrompt = 40, kDecoded = 6;

struct Drawn {
  std::vector<int32_t> tokens;
  uint64_t to_host = 0;  // bytes of logits, or of what was chosen
};

class EngineChoice : public testing::Test {
 protected:
  Drawn run(Device& device, const SamplingOptions& sampling, bool choose) {
    const int vocab = model_.spec.shape.vocab;
    Options options;
    options.device_bytes = options.host_bytes = 1ull << 30;
    options.context = 256;
    options.chunk = 64;
    Engine engine = engine_for_test(model_, options, device);
    Drawn result;
    Sampler sampler(sampling, vocab);
    RowChoice wanted{.vocab = vocab};
    const auto choice = [&]() -> const RowChoice* {
      if (!choose) return nullptr;
      wanted.candidates = sampler.choice().value();
      return &wanted;
    };
    const auto take = [&](std::span<const float> there) {
      const std::vector<float> row(there.begin(), there.end());  // until the next call
      const int32_t token = choose ? sampler.sample_chosen(row).value() : sampler.sample(row);
      if (choose) {
        const auto most = std::bit_cast<int32_t>(row[static_cast<size_t>(wanted.candidates.k)]);
        EXPECT_EQ(engine.last_logits()[static_cast<size_t>(most)], row[0]);
      }
      sampler.accept(token);
      result.tokens.push_back(token);
    };
    const SequenceId sequence = engine.open_sequence();
    const std::vector<int32_t> prompt = random_ids(3, kPrompt, vocab);
    for (const int32_t id : prompt) sampler.accept(id);
    const uint64_t before = to_host(engine);
    std::vector<float> first;  // what is taken may be compared with the whole row, after the call
    engine.prefill(sequence, prompt, {1, choice()}, true,
                   [&](int, std::span<const float> row) { first.assign(row.begin(), row.end()); });
    result.to_host = to_host(engine) - before;
    take(first);
    for (int i = 0; i < kDecoded; i++) take(engine.decode(sequence, result.tokens.back(), true, choice()));
    return result;
  }

  static uint64_t to_host(const Engine& engine) {
    return engine.traffic().bytes(Link::device_to_host, Cause::activations);
  }

  void expect_same(Device& device) {
    for (const SamplingOptions& sampling :
         {SamplingOptions{.temp = 0}, SamplingOptions{.temp = 1.4f, .repeat_penalty = 1.3f, .seed = 9},
          SamplingOptions{.temp = 2.0f, .top_k = 100, .top_p = 1, .min_p = 0, .seed = 2}}) {
      const Drawn whole = run(device, sampling, false), chosen = run(device, sampling, true);
      EXPECT_EQ(whole.tokens, chosen.tokens);
      if (device.host_addressable()) continue;
      EXPECT_EQ(whole.to_host, sizeof(float) * static_cast<uint64_t>(model_.spec.shape.vocab));
      EXPECT_EQ(chosen.to_host, sizeof(float) * candidate_floats(sampling.temp == 0 ? 1 : sampling.top_k));
    }
  }

  Model model_ = open_for_test(write_tiny_model({.layers = 2,
                                                 .hidden = 64,
                                                 .heads = 4,
                                                 .kv_heads = 2,
                                                 .head_dim = 32,
                                                 .ffn = 160,
                                                 .vocab = 640,
                                                 .context = 4096,
                                                 .type = DType::q8_0,
                                                 .name = "engine_choice"},
                                                ::testing::TempDir()));
};

TEST_F(EngineChoice, DrawsTheSameTokensOnTheCpu) { expect_same(*make_cpu_device({.threads = 1})); }

TEST_F(EngineChoice, DrawsTheSameTokensOnAnEmulatedGpu) {
  emulation::restart(1);
  expect_same(*std::make_unique<CudaDevice>(nullptr, *spillway_cuda_table(), 0));
}

}  // namespace
}  // namespace spillway
