#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "loader/tokenizer.h"
#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class SpmTokenizer : public testing::Test {
 protected:
  // 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then these.
  void SetUp() override {
    checkpoint_.files.push_back(File::open_read(folder_.write("model.gguf", "GGUF")));
    checkpoint_.meta["tokenizer.ggml.model"] = std::string("llama");
    for (const char* text : {"<unk>", "<s>", "</s>"}) add(text, 0, text == std::string("<unk>") ? 2 : 3);
    for (int byte = 0; byte < 256; ++byte) {
      char text[8];
      std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
      add(text, 0, 6);
    }
    checkpoint_.meta["tokenizer.ggml.bos_token_id"] = int64_t{1};
    checkpoint_.meta["tokenizer.ggml.eos_token_id"] = int64_t{2};
    checkpoint_.meta["tokenizer.ggml.unknown_token_id"] = int64_t{0};
  }
  int32_t add(const std::string& text, double score, int64_t type = 1) {
    tokens_.push_back(text);
    scores_.push_back(score);
    types_.push_back(type);
    return static_cast<int32_t>(tokens_.size() - 1);
  }
  std::unique_ptr<Tokenizer> make() {
    checkpoint_.meta["tokenizer.ggml.tokens"] = MetaArray(tokens_);
    checkpoint_.meta["tokenizer.ggml.scores"] = MetaArray(scores_);
    checkpoint_.meta["tokenizer.ggml.token_type"] = MetaArray(types_);
    return make_tokenizer(checkpoint_);
  }
  std::string refused() {
    try {
      make();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
  }
  static int32_t byte(int value) { return 3 + value; }

  TemporaryFolder folder_;
  Checkpoint checkpoint_;
  std::vector<std::string> tokens_;
  std::vector<double> scores_;
  std::vector<int64_t> types_;
};

TEST_F(SpmTokenizer, TheBestScoreMergesFirstAndTheLeftmostOfEquals) {
  const int32_t space = add("\u2581", -9), a = add("a", -9), b = add("b", -9), ab = add("ab", -2), ba = add("ba", -1);
  const auto tokenizer = make();
  EXPECT_THAT(tokenizer->encode("abab", false), ElementsAre(1, space, a, ba, b));
  scores_[static_cast<size_t>(ba)] = -2;  // equals
  EXPECT_THAT(make()->encode("aba", false, false), ElementsAre(space, ab, a));
}

TEST_F(SpmTokenizer, WhatNoPieceHasFallsBackToBytes) {
  const int32_t space = add("\u2581", -9);
  const auto tokenizer = make();
  EXPECT_THAT(tokenizer->encode("\n\xc3\xa9\xff", false, false),
              ElementsAre(space, byte('\n'), byte(0xc3), byte(0xa9), byte(0xff)));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("\n\xc3\xa9\xff  x ", false)), "\n\xc3\xa9\xff  x ");
  Utf8Stream stream;
  EXPECT_EQ(stream.push(tokenizer->piece(byte(0xc3))), "");  // half a character is held back
  EXPECT_EQ(stream.push(tokenizer->piece(byte(0xa9))), "\xc3\xa9");
}

TEST_F(SpmTokenizer, ASpaceGoesBeforeATextWhereTheModelAsks) {
  const int32_t space = add("\u2581", -9), a = add("a", -8), word = add("\u2581a", -1);
  EXPECT_THAT(make()->encode("a a", false, false), ElementsAre(word, word));
  EXPECT_THAT(make()->encode("a</s>a", true, false), ElementsAre(word, 2, word));
  EXPECT_THAT(make()->encode("", false, false), ElementsAre());
  checkpoint_.meta["tokenizer.ggml.add_space_prefix"] = false;
  EXPECT_THAT(make()->encode("a a ", false, false), ElementsAre(a, word, space));
  EXPECT_EQ(make()->decode(make()->encode(" a", false)), " a");
  checkpoint_.meta["tokenizer.ggml.add_bos_token"] = false;
  EXPECT_THAT(make()->encode("a", false), ElementsAre(a));
}

TEST_F(SpmTokenizer, UserDefinedPiecesAreFoundFirstAndUnusedOnesFallApart) {
  add("\u2581", -9);
  const int32_t a = add("a", -9), b = add("b", -9), table = add("<ab>", 0, 4);
  add("ab", -1, 5);
  const int32_t abab = add("abab", -0.5);
  checkpoint_.meta["tokenizer.ggml.add_space_prefix"] = false;
  EXPECT_THAT(make()->encode("ab<ab>a", false, false), ElementsAre(a, b, table, a));
  EXPECT_THAT(make()->encode("abab", false, false), ElementsAre(abab));
  EXPECT_EQ(make()->piece(table), "<ab>");
}

// The ids that tokenizers 0.23.3 gives for these pieces as added tokens whose merges come first, as in Gemma's
// tokenizer.json; without the last three sentencepiece 0.2.3's too.
TEST_F(SpmTokenizer, ATextsOwnMarksAreSpacesAsForGemma) {
  const int32_t one = add("\u2581", -9), two = add("  ", -1000, 4), three = add("   ", -1000, 4);
  const int32_t a = add("a", -9), word = add("\u2581a", -1), line = add("\n", -1000, 4);
  checkpoint_.meta["tokenizer.ggml.add_space_prefix"] = false;
  const auto tokenizer = make();
  const auto ids = [&](const char* text) { return tokenizer->encode(text, false, false); };
  EXPECT_THAT(ids("a\u2581a a"), ElementsAre(a, word, word));
  EXPECT_THAT(ids("\u2581\u2581a"), ElementsAre(two, a));
  EXPECT_THAT(ids("  a"), ElementsAre(two, a));
  EXPECT_THAT(ids(" \u2581a\u2581 "), ElementsAre(two, a, two));
  EXPECT_THAT(ids("\u2581 \u2581"), ElementsAre(three));
  EXPECT_THAT(ids("\u2581\u2581\u2581\u2581\u2581"), ElementsAre(three, two));
  EXPECT_THAT(ids("\n\u2581\n   \u2581"), ElementsAre(line, one, line, three, one));
  EXPECT_THAT(ids("\u2581\u2581 "), ElementsAre(two, one));
  EXPECT_THAT(ids(" \u2581\u2581"), ElementsAre(one, two));
  EXPECT_THAT(ids("  \u2581\u2581 a"), ElementsAre(two, two, word));
  EXPECT_EQ(tokenizer->decode(ids(" \u2581a\u2581\u2581 ")), "  a   ");
}

TEST_F(SpmTokenizer, PhiThreesTurnsTakeTheWhiteSpaceAfterThem) {
  add("\u2581", -9);
  const int32_t word = add("\u2581a", -1), user = add("<|user|>", 0, 3);
  add("a", -9);
  EXPECT_EQ(make()->encode("<|user|>\na", true, false).size(), 4u);  // the turn, a space, the line's end, a
  checkpoint_.meta["general.architecture"] = std::string("phi3");
  EXPECT_THAT(make()->encode("<|user|> \n\u00a0a<|user|>", true, false), ElementsAre(user, word, user));
  EXPECT_THAT(make()->encode("</s> a", true, false).size(), 3u);
}

TEST_F(SpmTokenizer, LongRunsTakeNoQuadraticTime) {
  add("\u2581", -9);
  std::string text = "a";
  for (int i = 0; i < 10; ++i) add(text += text.substr(0, text.size() / 2 + 1), -i);
  add("a\u2581a", -3);  // so that words are not merged one by one
  add("a", -20);
  const auto tokenizer = make();
  const auto start = std::chrono::steady_clock::now();
  for (const char* unit : {"a", " ", "a ", "\xff", "\xe6\x97\xa5"}) {
    std::string run;
    while (run.size() < 1 << 20) run += unit;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(run, true)), run) << unit;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_F(SpmTokenizer, RefusesWhatCannotBe) {
  scores_.push_back(0);
  EXPECT_THAT(refused(), HasSubstr("one number for each"));
  scores_.pop_back();
  scores_[5] = std::nan("");
  EXPECT_THAT(refused(), HasSubstr("no number"));
  scores_[5] = 0;
  checkpoint_.meta["tokenizer.ggml.unknown_token_id"] = int64_t{1000};
  EXPECT_THAT(refused(), HasSubstr("unknown_token_id is 1000"));
}

}  // namespace
}  // namespace spillway
