#include "loader/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "loader/chat_template.h"
#include "tests/loader/gguf_bytes.h"
#include "tests/support/real_model.h"

namespace spillway {
namespace {

// A checkpoint of nothing but a tokenizer.
Checkpoint tokenizer_only(const std::string& path, const std::string& pre, std::vector<std::string> tokens,
                          std::vector<int64_t> types, std::vector<std::string> merges) {
  Checkpoint checkpoint;
  checkpoint.files.push_back(File::open_read(path));
  checkpoint.meta["tokenizer.ggml.model"] = std::string("gpt2");
  checkpoint.meta["tokenizer.ggml.pre"] = pre;
  checkpoint.meta["tokenizer.ggml.tokens"] = MetaArray(std::move(tokens));
  checkpoint.meta["tokenizer.ggml.token_type"] = MetaArray(std::move(types));
  checkpoint.meta["tokenizer.ggml.merges"] = MetaArray(std::move(merges));
  return checkpoint;
}

std::string golden_path(const std::string& pre) {
  return std::string(SPILLWAY_TEST_DATA "/tokenizer_") + pre + ".json";
}

Checkpoint golden_checkpoint(const std::string& pre) {
  const auto golden = nlohmann::json::parse(std::ifstream(golden_path(pre)));
  return tokenizer_only(golden_path(pre), golden["pre"], golden["tokens"], golden["types"], golden["merges"]);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, IdsOfHuggingFaceTokenizers) {
  const auto golden = nlohmann::json::parse(std::ifstream(golden_path(GetParam())));
  const Checkpoint checkpoint = golden_checkpoint(GetParam());
  const auto tokenizer = make_tokenizer(checkpoint);
  ASSERT_EQ(tokenizer->vocab(), golden["tokens"].size());
  ASSERT_GE(golden["cases"].size(), 20u);
  for (const auto& golden_case : golden["cases"]) {
    const std::string text = golden_case["text"];
    const auto plain = tokenizer->encode(text, false), special = tokenizer->encode(text, true);
    EXPECT_EQ(plain, golden_case["plain"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(special, golden_case["special"].get<std::vector<int32_t>>()) << text;
    if (std::string(GetParam()) == "smollm") continue;  // whose vocabulary lacks bytes, as SmolLM2's does
    EXPECT_EQ(tokenizer->decode(plain), text);
    EXPECT_EQ(tokenizer->decode(special, true), text);
  }
}

TEST_P(Golden, LongRunsTakeNoQuadraticTime) {
  const auto tokenizer = make_tokenizer(golden_checkpoint(GetParam()));
  const auto start = std::chrono::steady_clock::now();
  for (const char* unit : {"a", " ", "\n", "1", "!", "th", " \n", "\xe6\x97\xa5", "'s", "\xff"}) {
    std::string text;
    while (text.size() < 1 << 18) text += unit;
    const auto ids = tokenizer->encode(text, true);
    if (std::string(GetParam()) == "smollm") continue;
    EXPECT_TRUE(tokenizer->decode(ids) == text) << unit;
  }
  // Half a second for all ten where quadratic time takes many minutes; the bound leaves room for sanitizers.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

INSTANTIATE_TEST_SUITE_P(Patterns, Golden, testing::Values("smollm", "gpt-2", "llama-bpe", "qwen2"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(Tokenizer, EveryByteComesBack) {
  const auto tokenizer = make_tokenizer(golden_checkpoint("qwen2"));
  std::string text;
  for (int i = 0; i < 3000; ++i) text += static_cast<char>(i * 2654435761u >> 24);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    ASSERT_EQ(tokenizer->encode(one, false).size(), 1u) << byte;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(one, false)), one);
  }
}

TEST(Tokenizer, BrokenUtf8IsAPieceOfItsOwn) {
  const auto tokenizer = make_tokenizer(golden_checkpoint("gpt-2"));
  const auto joined = tokenizer->encode("the\xff\xfe the", false);
  auto apart = tokenizer->encode("the", false);
  for (const std::string& part : {std::string("\xff\xfe"), std::string(" the")}) {
    for (const int32_t id : tokenizer->encode(part, false)) apart.push_back(id);
  }
  EXPECT_EQ(joined, apart);
}

TEST(Tokenizer, ControlTokensShowOnlyWhenAsked) {
  const auto tokenizer = make_tokenizer(golden_checkpoint("gpt-2"));
  const auto ids = tokenizer->encode("<|im_start|>the<tool><|im_end|>", true);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_EQ(tokenizer->decode(ids), "the<tool>");
  EXPECT_EQ(tokenizer->decode(ids, true), "<|im_start|>the<tool><|im_end|>");
  EXPECT_EQ(tokenizer->piece(-1), "");
  EXPECT_EQ(tokenizer->piece(tokenizer->vocab(), true), "");
  EXPECT_EQ(tokenizer->piece(INT32_MAX, true), "");
}

TEST(Tokenizer, BosWhereTheModelAsks) {
  Checkpoint checkpoint = golden_checkpoint("gpt-2");
  EXPECT_EQ(make_tokenizer(checkpoint)->bos(), -1);
  checkpoint.meta["tokenizer.ggml.bos_token_id"] = int64_t{1};
  EXPECT_EQ(make_tokenizer(checkpoint)->bos(), 1);
  EXPECT_NE(make_tokenizer(checkpoint)->encode("the", false).front(), 1);
  checkpoint.meta["tokenizer.ggml.add_bos_token"] = true;
  EXPECT_EQ(make_tokenizer(checkpoint)->encode("the", false).front(), 1);
  EXPECT_NE(make_tokenizer(checkpoint)->encode("the", false, false).front(), 1);
  // Llama 3's files do not always say; its texts begin with it.
  checkpoint = golden_checkpoint("llama-bpe");
  checkpoint.meta["tokenizer.ggml.bos_token_id"] = int64_t{1};
  EXPECT_EQ(make_tokenizer(checkpoint)->encode("the", false).front(), 1);
}

TEST(Tokenizer, KnowsWhatEnds) {
  Checkpoint checkpoint = golden_checkpoint("gpt-2");
  checkpoint.meta["tokenizer.ggml.eos_token_id"] = int64_t{5};
  const auto tokenizer = make_tokenizer(checkpoint);
  EXPECT_TRUE(tokenizer->is_end(5));
  EXPECT_TRUE(tokenizer->is_end(0));   // <|endoftext|>
  EXPECT_FALSE(tokenizer->is_end(1));  // <|im_start|>
  EXPECT_TRUE(tokenizer->is_end(2));   // <|im_end|>
  EXPECT_FALSE(tokenizer->is_end(-1));
  EXPECT_FALSE(tokenizer->is_end(1 << 30));
}

TEST(Tokenizer, RefusesWhatItDoesNotKnowByName) {
  Checkpoint checkpoint = golden_checkpoint("gpt-2");
  const auto refused = [&] { return message_of([&] { make_tokenizer(checkpoint); }); };
  checkpoint.meta["tokenizer.ggml.model"] = std::string("t5");
  EXPECT_THAT(refused(),
              testing::AllOf(testing::HasSubstr("\"t5\""), testing::HasSubstr("gpt2"), testing::HasSubstr("llama")));
  checkpoint = golden_checkpoint("gpt-2");
  checkpoint.meta["tokenizer.ggml.pre"] = std::string("bloom");
  EXPECT_THAT(refused(), testing::AllOf(testing::HasSubstr("\"bloom\""), testing::HasSubstr("smollm"),
                                        testing::HasSubstr("qwen2"), testing::HasSubstr(checkpoint.path())));
  checkpoint.meta.erase("tokenizer.ggml.pre");
  EXPECT_THAT(refused(), testing::HasSubstr("tokenizer.ggml.pre is missing"));
}

TEST(Tokenizer, RefusesWhatCannotBe) {
  Checkpoint checkpoint;
  const auto refused = [&](const std::string& key, MetaValue value) {
    checkpoint = golden_checkpoint("gpt-2");
    checkpoint.meta[key] = std::move(value);
    return message_of([&] { make_tokenizer(checkpoint); });
  };
  using testing::HasSubstr;
  const auto texts = [](std::vector<std::string> list) { return MetaArray(std::move(list)); };
  EXPECT_THAT(refused("tokenizer.ggml.merges", texts({"th"})), HasSubstr("not a pair"));
  EXPECT_THAT(refused("tokenizer.ggml.merges", texts({"q x"})), HasSubstr("does not exist"));
  EXPECT_THAT(refused("tokenizer.ggml.merges", texts({"\x1b[2J"})), HasSubstr("\\x1b[2J"));
  EXPECT_THAT(refused("tokenizer.ggml.tokens", texts({})), HasSubstr("empty"));
  EXPECT_THAT(refused("tokenizer.ggml.tokens", int64_t{3}), HasSubstr("an array of texts is expected"));
  EXPECT_THAT(refused("tokenizer.ggml.token_type", MetaArray(std::vector<int64_t>{1})),
              HasSubstr("one integer for each"));
  const size_t tokens = checkpoint.strings("tokenizer.ggml.tokens")->size();
  EXPECT_THAT(refused("tokenizer.ggml.token_type", MetaArray(std::vector<int64_t>(tokens, 7))), HasSubstr("holds 7"));
  EXPECT_THAT(refused("tokenizer.ggml.eos_token_id", static_cast<int64_t>(tokens)), HasSubstr("eos_token_id"));
  EXPECT_THAT(refused("tokenizer.ggml.bos_token_id", int64_t{-1}), HasSubstr("bos_token_id"));
}

TEST(Utf8Stream, NeverPrintsHalfACharacter) {
  const std::string text = "a\xc3\xa9\xe6\x97\xa5\xf0\x9f\x99\x82z";
  for (size_t step = 1; step <= text.size(); ++step) {
    Utf8Stream stream;
    std::string all;
    for (size_t at = 0; at < text.size(); at += step) {
      all += stream.push(std::string_view(text).substr(at, step));
      // What has been printed is whole characters of the text.
      ASSERT_EQ(text.compare(0, all.size(), all), 0);
      ASSERT_TRUE(all.size() == text.size() || (static_cast<unsigned char>(text[all.size()]) & 0xc0) != 0x80);
    }
    EXPECT_EQ(all + stream.finish(), text);
  }
}

TEST(Utf8Stream, EachMaximalBrokenPartIsOneReplacement) {
  const auto through = [](std::string_view bytes) {
    Utf8Stream whole, single;
    std::string once = whole.push(bytes), piecewise;
    once += whole.finish();
    for (const char c : bytes) piecewise += single.push({&c, 1});
    piecewise += single.finish();
    EXPECT_EQ(once, piecewise);
    return once;
  };
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(through("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64"),  // the Unicode standard's table 3-8
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(through("\xc0\xaf"), r + r);
  EXPECT_EQ(through("\xe0\x80\xaf"), r + r + r);
  EXPECT_EQ(through("\xed\xa0\x80"), r + r + r);
  EXPECT_EQ(through("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(through("\xf0\x9f\x99"), r);
  EXPECT_EQ(through(""), "");
}

TEST(SmolLm2, IdsOfHuggingFaceTokenizers) {
  if (real_model().empty()) GTEST_SKIP() << kNoRealModel;
  const Checkpoint checkpoint = open_gguf(real_model());
  const auto tokenizer = make_tokenizer(checkpoint);
  const auto golden = nlohmann::json::parse(std::ifstream(SPILLWAY_TEST_DATA "/smollm2_ids.json"));
  ASSERT_GE(golden.size(), 20u);
  for (const auto& golden_case : golden) {
    const std::string text = golden_case["text"];
    EXPECT_EQ(tokenizer->encode(text, true), golden_case["ids"].get<std::vector<int32_t>>()) << text;
  }
  EXPECT_EQ(tokenizer->vocab(), 49152);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_TRUE(tokenizer->is_end(2));
  EXPECT_TRUE(tokenizer->is_end(0));
  const ChatMessage message{"user", "Hi"};
  EXPECT_EQ(ChatTemplate::from(checkpoint).render({&message, 1}, true),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace spillway
