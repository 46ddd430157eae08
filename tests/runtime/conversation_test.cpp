// A conversation that keeps its KV answers as one that computes everything anew.
#include "runtime/conversation.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <optional>

#include "runtime/session.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

class ConversationTest : public ::testing::Test {
 protected:
  ConversationTest() {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("conversation-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    model_.emplace(Model::open(write_tiny_model({.type = DType::q4_0, .name = "talk"}, folder_.string())));
    device_ = make_cpu_device({.threads = 2});
  }
  ~ConversationTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Engine> engine() { return engine_on(*device_); }

  std::unique_ptr<Engine> engine_on(Device& device) {
    options_ = {};
    options_.context = 1024;
    options_.chunk = 64;
    options_.device_bytes = uint64_t{1} << 30;
    return std::make_unique<Engine>(*model_, options_, plan_for_test(*model_, options_, device), device, OnProgress{});
  }

  static std::vector<int32_t> text(int count, int seed) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = 10 + (i * 37 + seed * 101 + i * i % 13) % 250;
    return ids;
  }

  static GenerateOptions greedy(int tokens) {
    GenerateOptions options{.max_tokens = tokens, .ignore_end = true};
    options.sampling.temp = 0;
    options.sampling.repeat_penalty = 1.3F;  // looks at the whole prompt, kept or not
    return options;
  }

  std::vector<int32_t> afresh(std::span<const int32_t> prompt, int tokens) {
    const auto device = make_cpu_device({.threads = 1});  // two engines may not share one
    const auto fresh = engine_on(*device);
    return Conversation(*fresh, *model_->tokenizer).answer(prompt, greedy(tokens), {}).tokens;
  }

  std::filesystem::path folder_;
  std::optional<Model> model_;
  std::unique_ptr<Device> device_;
  Options options_;
};

void append(std::vector<int32_t>& to, const std::vector<int32_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

TEST_F(ConversationTest, OnlyWhatIsNewIsComputed) {
  const auto engine = this->engine();
  Conversation conversation(*engine, *model_->tokenizer);
  std::vector<int32_t> prompt = text(100, 1);
  const Generation first = conversation.answer(prompt, greedy(20), {});
  EXPECT_EQ(first.prompt_tokens, 100);
  append(prompt, first.tokens);
  append(prompt, text(30, 2));
  const Generation second = conversation.answer(prompt, greedy(20), {});
  EXPECT_EQ(second.prompt_tokens, 31) << "the last token of the answer was drawn, not computed";
  EXPECT_EQ(conversation.kept(), 119);
  EXPECT_EQ(second.tokens, afresh(prompt, 20));
}

// What is held is cut back at every kind of place: in the open page, in a sealed one, at a page's end, at nothing.
TEST_F(ConversationTest, ARewrittenTextIsComputedFromWhereItDiffers) {
  const auto engine = this->engine();
  Conversation conversation(*engine, *model_->tokenizer);
  const std::vector<int32_t> base = text(300, 1);
  for (const int keep : {299, 290, 257, 256, 255, 130, 128, 64, 63, 1, 0}) {
    conversation.answer(base, greedy(3), {});
    std::vector<int32_t> changed(base.begin(), base.begin() + keep);
    append(changed, text(40, 3));
    const Generation answer = conversation.answer(changed, greedy(8), {});
    EXPECT_EQ(conversation.kept(), keep);
    EXPECT_EQ(answer.tokens, afresh(changed, 8)) << "after " << keep;
  }
}

TEST_F(ConversationTest, TheSamePromptAgainComputesOneToken) {
  const auto engine = this->engine();
  Conversation conversation(*engine, *model_->tokenizer);
  const std::vector<int32_t> prompt = text(200, 1);
  const auto first = conversation.answer(prompt, greedy(9), {});
  const auto again = conversation.answer(prompt, greedy(9), {});
  EXPECT_EQ(again.prompt_tokens, 1);
  EXPECT_EQ(again.tokens, first.tokens);
  conversation.clear();
  EXPECT_EQ(conversation.tokens(), 0);
  EXPECT_EQ(conversation.answer(prompt, greedy(9), {}).prompt_tokens, 200);
}

TEST_F(ConversationTest, AnInterruptKeepsWhatWasComputed) {
  const auto engine = this->engine();
  Conversation conversation(*engine, *model_->tokenizer);
  std::vector<int32_t> prompt = text(300, 1);
  int chunks = 0;
  const GenerateHooks hooks{.on_prefill = [&](uint64_t, uint64_t) { ++chunks; },
                            .interrupted = [&] { return chunks >= 2; }};
  const Generation cut = conversation.answer(prompt, greedy(9), hooks);
  EXPECT_EQ(cut.finish, FinishReason::interrupted);
  EXPECT_EQ(conversation.tokens(), 192) << "two chunks of the prompt, and one that was under way";
  EXPECT_EQ(conversation.answer(prompt, greedy(9), {}).tokens, afresh(prompt, 9));
  EXPECT_EQ(conversation.kept(), 192);
}

TEST_F(ConversationTest, WhatDoesNotFitChangesNothing) {
  const auto engine = this->engine();
  Conversation conversation(*engine, *model_->tokenizer);
  const std::vector<int32_t> prompt = text(100, 1);
  conversation.answer(prompt, greedy(5), {});
  const int before = conversation.tokens();
  EXPECT_THROW(conversation.answer(text(1025, 1), greedy(5), {}), Error);
  EXPECT_EQ(conversation.tokens(), before);
  // To the brim: the answer ends where the context does.
  const Generation last = conversation.answer(text(1020, 1), greedy(50), {});
  EXPECT_TRUE(last.context_full);
  EXPECT_EQ(conversation.tokens(), 1024);
}

}  // namespace
}  // namespace spillway
