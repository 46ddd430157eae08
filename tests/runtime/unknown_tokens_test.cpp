// Ids that the embedding has no row for, given to the engine itself.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "kernels/backend.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(UnknownTokens, EndAPassBeforeItBegins) {
  const Model model = open_for_test(write_tiny_model({.name = "unknown_tokens"}, ::testing::TempDir()));
  const auto device = make_cpu_device({.threads = 1});
  Options options;
  options.device_bytes = 64 << 20;
  options.context = 64;
  Engine engine = engine_for_test(model, options, *device);
  const SequenceId sequence = engine.open_sequence();
  const int vocab = model.spec.shape.vocab;
  const auto refused = [&](int32_t id, const auto& pass) {
    try {
      pass();
      ADD_FAILURE() << id << " was run";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), AllOf(HasSubstr(model.checkpoint.path()), HasSubstr(fmt::format("no token {}:", id)),
                                      HasSubstr(fmt::format("token_embd.weight has {} rows", vocab))));
    }
    EXPECT_EQ(engine.tokens(sequence), 0);
  };
  for (const int32_t id : {vocab, -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    const int32_t prompt[] = {1, 2, id};
    refused(id, [&] { engine.prefill(sequence, prompt, 1, false, [](int, std::span<const float>) {}); });
    refused(id, [&] { engine.decode(sequence, id, false); });
    const PassPart part{.sequence = sequence, .tokens = prompt, .decode = false, .logit_rows = 1};
    refused(id, [&] {
      engine.step({.parts = {&part, 1}, .any_kernel = false, .next = {}}, [](std::span<const Engine::PartRow>) {});
    });
  }
  EXPECT_EQ(engine.decode(sequence, vocab - 1, false).size(), static_cast<size_t>(vocab));
  EXPECT_EQ(engine.tokens(sequence), 1);
}

}  // namespace
}  // namespace spillway
