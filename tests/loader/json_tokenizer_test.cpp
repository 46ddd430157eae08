#include "loader/text/json_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::filesystem::path kData = SPILLWAY_TEST_DATA "/text";

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, IdsOfHuggingFaceTokenizers) {
  const auto tokenizer = read_json_tokenizer(kData / GetParam());
  const json cases = json::parse(std::ifstream(kData / GetParam() / "cases.json"));
  ASSERT_GE(cases.size(), 10u);
  for (const json& one : cases) {
    const std::string text = one["text"];
    EXPECT_EQ(tokenizer->encode(text, true), one["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(tokenizer->encode(text, false, false), one["plain"].get<std::vector<int32_t>>()) << text;
  }
}

TEST_P(Family, LongRunsTakeNoQuadraticTime) {
  const auto tokenizer = read_json_tokenizer(kData / GetParam());
  const auto start = std::chrono::steady_clock::now();
  for (const char* unit : {"a", " ", "\n", "A", "!", "\xe6\x97\xa5", "\xcc\x81\xcc\xa3", "\xff", " a"}) {
    std::string text = "x";
    while (text.size() < 1 << 18) text += unit;
    const auto ids = tokenizer->encode(text, true);
    EXPECT_LE(ids.size(), 2 * text.size()) << unit;
    EXPECT_FALSE(ids.empty()) << unit;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

INSTANTIATE_TEST_SUITE_P(Families, Family,
                         testing::Values("hf_deepseek3", "hf_deepseek_coder", "hf_gpt4o", "hf_llama2", "hf_llama3",
                                         "hf_mistral", "hf_opt", "hf_qwen3", "hf_qwen35", "hf_tekken"),
                         [](const auto& param) { return std::string(param.param); });

class JsonTokenizer : public testing::Test {
 protected:
  JsonTokenizer() { file_ = json::parse(std::ifstream(kData / "hf_llama2" / "tokenizer.json")); }

  std::unique_ptr<Tokenizer> read() {
    folder_.write("tokenizer.json", file_.dump());
    return read_json_tokenizer(folder());
  }
  std::filesystem::path folder() const { return folder_.path(); }
  std::string refused() {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
  }

  TemporaryFolder folder_;
  json file_;
};

TEST_F(JsonTokenizer, GivesBackWhatWasEncoded) {
  for (const char* name : {"hf_llama2", "hf_mistral", "hf_opt", "hf_llama3"}) {
    const auto tokenizer = read_json_tokenizer(kData / name);
    const std::string text = "The r\xc3\xadver\xe2\x80\x99s 12345 \xf0\x9f\x99\x82\xff\xfe stones\n\n  \t.";
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false)), text) << name;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("", false)), "") << name;
  }
}

TEST_F(JsonTokenizer, SpecialTokensAreWhatTheFolderSays) {
  const auto tokenizer = read();
  EXPECT_EQ(tokenizer->bos(), 1);  // of the post-processor
  EXPECT_FALSE(tokenizer->is_end(2));
  EXPECT_EQ(tokenizer->piece(1), "");
  EXPECT_EQ(tokenizer->piece(1, true), "<s>");
  folder_.write("tokenizer_config.json", R"({"eos_token": {"content": "</s>"}, "bos_token": "<unk>"})");
  folder_.write("generation_config.json", R"({"eos_token_id": [7, 99999999]})");
  const auto configured = read();
  EXPECT_EQ(configured->bos(), 0);
  EXPECT_TRUE(configured->is_end(2));
  EXPECT_TRUE(configured->is_end(7));
}

TEST_F(JsonTokenizer, VocabularyAndMergesInTwoFiles) {
  folder_.write("vocab.json", R"({"</s>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġab": 5})");
  folder_.write("merges.txt", "#version: 0.2\na b\nĠ ab\n");
  folder_.write("tokenizer_config.json", R"({"bos_token": "</s>", "eos_token": "</s>", "add_bos_token": true})");
  const auto tokenizer = read_json_tokenizer(folder());
  EXPECT_EQ(tokenizer->encode("ab ab</s>b", true), (std::vector<int32_t>{0, 3, 5, 0, 2}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab ab", true)), "ab ab");
  EXPECT_TRUE(tokenizer->is_end(0));
}

// As the tokenizers library has it: other white space than ' ' at the beginning counts for none.
TEST_F(JsonTokenizer, APrefixedSpaceIsLeftOutWhereTheTextBeginsWithOne) {
  file_ = json::parse(std::ifstream(kData / "hf_opt" / "tokenizer.json"));
  const auto plain = read();
  ASSERT_EQ(file_["pre_tokenizer"]["type"], "ByteLevel");
  file_["pre_tokenizer"]["add_prefix_space"] = true;
  const auto prefixed = read();
  for (const std::string text : {"Hi", "\nHi", "\tHi", "\u00a0Hi", "\u3000Hi"}) {
    EXPECT_EQ(prefixed->encode(text, false, false), plain->encode(" " + text, false, false)) << text;
  }
  EXPECT_EQ(prefixed->encode(" Hi", false, false), plain->encode(" Hi", false, false));
  EXPECT_EQ(prefixed->encode("\nHi", false, false), (std::vector<int32_t>{220, 198, 39, 72}));
}

// Of Unicode's special casings the one that needs no context.
TEST_F(JsonTokenizer, LowercaseIsThatOfEachCharacter) {
  file_ = json::parse(std::ifstream(kData / "hf_opt" / "tokenizer.json"));
  const auto plain = read();
  file_["normalizer"] = {{"type", "Lowercase"}};
  const auto lower = read();
  EXPECT_EQ(lower->encode("a\u0130b \u0130", false, false), plain->encode("ai\u0307b i\u0307", false, false));
  EXPECT_EQ(lower->encode("\u0391\u03a3 \u03a3.", false, false), plain->encode("\u03b1\u03c3 \u03c3.", false, false));
  EXPECT_EQ(lower->encode("a\u0130b", false, false), (std::vector<int32_t>{300, 136, 229, 65}));
}

TEST_F(JsonTokenizer, RefusesWhatItDoesNotKnowByName) {
  file_["normalizer"] = {{"type", "Nmt"}};
  EXPECT_THAT(refused(), testing::AllOf(HasSubstr("normalizer"), HasSubstr("\"Nmt\""), HasSubstr("known: Sequence")));
  file_["normalizer"] = nullptr;
  file_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "BertPreTokenizer"}}}}};
  EXPECT_THAT(refused(), testing::AllOf(HasSubstr("\"BertPreTokenizer\""), HasSubstr("Metaspace")));
  const auto pattern = [&](const char* regex) {
    file_["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", regex}}}};
    return refused();
  };
  EXPECT_THAT(pattern("a("), HasSubstr("is not understood"));
  EXPECT_THAT(pattern("[a[b]]"), HasSubstr("a class inside a class"));
  EXPECT_THAT(pattern("\\h"), HasSubstr("\\h, which is not known here"));
  EXPECT_THAT(pattern("(*LIMIT_MATCH=1)a"), HasSubstr("(*"));
  file_["pre_tokenizer"] = nullptr;
  file_["model"]["type"] = "WordPiece";
  EXPECT_THAT(refused(), testing::AllOf(HasSubstr("\"WordPiece\""), HasSubstr("known: BPE")));
}

TEST_F(JsonTokenizer, RefusesWhatCannotBe) {
  const json good = file_;
  const auto with = [&](const char* pointer, json value) {
    file_ = good;
    if (pointer == std::string("/model/vocab")) file_["model"]["merges"] = json::array();
    file_[json::json_pointer(pointer)] = std::move(value);
    return refused();
  };
  EXPECT_THAT(with("/model/vocab", json{{"a", 1 << 30}}), HasSubstr("1073741824"));
  EXPECT_THAT(with("/model/vocab", json{{"a", -1}}), HasSubstr("-1"));
  EXPECT_THAT(with("/model/vocab", json{{"a", "b"}}), HasSubstr("wrong type"));
  for (const json& none : {json::object(), json::array()}) {
    EXPECT_THAT(with("/model/vocab", none), HasSubstr("model, vocab: is empty")) << none;
  }
  EXPECT_THAT(with("/normalizer", json::parse(R"({"type": "Replace", "pattern": {"String": ""}, "content": "a"})")),
              HasSubstr("normalizer, pattern: its String is empty"));
  EXPECT_THAT(with("/model/merges", {"ab"}), HasSubstr("not a pair"));
  EXPECT_THAT(with("/model/merges", json::array({json::array({"a"})})), HasSubstr("no pair"));
  EXPECT_THAT(with("/model/merges", {"qq zz"}), HasSubstr("does not exist"));
  EXPECT_THAT(with("/added_tokens/0/id", 1 << 29), HasSubstr("no token can have the id"));
  EXPECT_THAT(with("/added_tokens", 3), HasSubstr("added_tokens is not an array"));
  EXPECT_THAT(with("/model", nullptr), HasSubstr("model: is no object"));
  folder_.write("tokenizer.json", "{\"model\": {");
  EXPECT_THROW(read_json_tokenizer(folder()), Error);
  folder_.write("tokenizer.json", std::string(100000, '['));
  EXPECT_THROW(read_json_tokenizer(folder()), Error);
}

TEST_F(JsonTokenizer, APatternThatTakesTooLongIsRefusedAsItIsMet) {
  file_["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a+)+$"}}}};
  const auto tokenizer = read();
  EXPECT_THROW(tokenizer->encode(std::string(40, 'a') + "!", false), Error);
}

// A step that makes much of little, alone or by doubling what the one before it made.
class Growing : public JsonTokenizer {
 protected:
  static json replace(const std::string& from, const std::string& to) {
    return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  }
  static json doublings(int count) {
    json steps = json::array();
    for (int i = 0; i < count; ++i) steps.push_back(replace("a", "aa"));
    return steps;
  }
  void normalize_by(const json& steps) { file_["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}}; }

  // What is said of `text`; the tokenizer itself is sound.
  std::string refused_text(const std::string& text) {
    const auto tokenizer = read();
    try {
      tokenizer->encode(text, false);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), HasSubstr(folder_.path() + "/tokenizer.json: normalizer"));
      return error.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
  }
};

TEST_F(Growing, OfATextIsBounded) {
  file_["added_tokens"] = json::array();
  normalize_by({replace("b", "c"), replace("a", std::string(1 << 20, 'x'))});
  EXPECT_THAT(refused_text(std::string(100'000, 'a')), HasSubstr("step 2 (Replace): makes more of a text of 100000"));
  normalize_by(doublings(40));
  EXPECT_THAT(refused_text("a"), HasSubstr("(Replace): makes more of a text of 1 bytes"));
  file_["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "a|"}}}, {"content", std::string(1 << 20, 'x')}};
  EXPECT_THAT(refused_text(std::string(1000, 'a')), HasSubstr("step 1 (Replace)"));
  // Each part of a text anew, and nothing left of it in the end.
  json steps = doublings(20);
  steps.push_back(replace("a", ""));
  normalize_by(steps);
  std::string parts;
  for (int i = 0; i < 1000; ++i) parts += "a\xff";
  EXPECT_THAT(refused_text(parts), HasSubstr("(Replace): makes more"));
}

TEST_F(Growing, OfAVocabularyIsBounded) {
  const json good = file_;
  normalize_by(doublings(40));
  file_["added_tokens"][0]["content"] = "aaa";
  file_["added_tokens"][0]["normalized"] = true;
  EXPECT_THAT(refused(), testing::AllOf(HasSubstr("tokenizer.json: normalizer"), HasSubstr("makes more of a text")));
  file_ = good;
  json steps = doublings(30);
  file_["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  EXPECT_THAT(refused(), testing::AllOf(HasSubstr("tokenizer.json: decoder"), HasSubstr("makes more of a text")));
}

TEST_F(Growing, SoIsTheNumberOfSteps) {
  const json good = file_;
  normalize_by(doublings(257));
  EXPECT_THAT(refused(), HasSubstr("more than 256 steps"));
  file_ = good;
  const json digits = {{"type", "Digits"}};
  file_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  for (int i = 0; i < 257; ++i) file_["pre_tokenizer"]["pretokenizers"].push_back(digits);
  EXPECT_THAT(refused(), HasSubstr("more than 256 steps"));
  file_ = good;
  file_["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "xy"}, {"prepend_scheme", "always"}};
  EXPECT_THAT(refused(), HasSubstr("its replacement is not one character"));
}

// The largest growths that Unicode and the families have: a ligature of eighteen characters, a mark for each space.
TEST_F(Growing, OfRealTextsIsFree) {
  normalize_by({{{"type", "NFKC"}}, replace(" ", "\u2581"), {{"type", "Prepend"}, {"prepend", "\u2581"}}});
  const auto tokenizer = read();
  std::string ligatures, spaces(1 << 19, ' ');
  for (int i = 0; i < 1 << 17; ++i) ligatures += "\ufdfa";
  EXPECT_FALSE(tokenizer->encode(ligatures, false).empty());
  EXPECT_FALSE(tokenizer->encode(spaces, false).empty());
}

}  // namespace
}  // namespace spillway
