// Texts with a token that the tokenizer knows and the model does not: every command says so, and reads no other bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/apps/batch.h"
#include "tests/apps/terminal.h"
#include "tests/support/far_token.h"

namespace spillway {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class UnknownTokens : public Batch {
 protected:
  UnknownTokens() {
    const auto tests = std::filesystem::path(SPILLWAY_TEST_DATA).parent_path().parent_path();
    model_ = write_far_token_model(tests / "runtime" / "data" / "hf", folder_ / "hf");
  }

  static auto names_it() {
    return AllOf(HasSubstr("tokenizer.json: the text has token 330 (\"<far>\")"),
                 HasSubstr("model.embed_tokens.weight of "), HasSubstr("model.safetensors has 320 rows"));
  }
};

TEST_F(UnknownTokens, AreNamedByEveryCommandThatReadsAText) {
  const std::string text = program_.write("text", "one <far> two");
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"generate", "-f", text, "-n", "1"},
                                             {"chat", "-f", text, "--template", "chatml", "-n", "1"},
                                             {"score", "-f", text},
                                             {"quality", "-f", text, "-c", "64", "--steps", "8", "--greedy", "4",
                                              "--passkeys", "0", "--policies", "--kv-type q8"}}) {
    std::vector<std::string> command = words;
    command.insert(command.begin() + 1, {"-m", model_});
    const Result result = run(command);
    EXPECT_EQ(result.exit_code, 3) << words[0] << ": " << result.err;
    EXPECT_THAT(result.err, names_it()) << words[0];
    EXPECT_EQ(result.out, "") << words[0];
  }
  const Result sound = run({"generate", "-m", model_, "-p", "one two", "-n", "4", "--temp", "0", "--ignore-eos"});
  EXPECT_EQ(sound.exit_code, 0) << sound.err;
}

TEST_F(UnknownTokens, OfALineOfABatchAreThatLinesError) {
  const json chat{{"messages", {{{"role", "user"}, {"content", "<far>"}}}}, {"max_tokens", 2}};
  program_.write("in.jsonl", request("text", {{"prompt", "a<far>"}, {"max_tokens", 2}}) +
                                 request("chat", chat, "/v1/chat/completions") +
                                 request("ids", {{"prompt", {5, kFarToken}}, {"max_tokens", 2}}) +
                                 request("sound", {{"prompt", "ab"}, {"max_tokens", 2}, {"temperature", 0}}));
  const Result result = run(command({"--template", "chatml"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("4 of 4 requests are answered, 3 of them with an error"));
  for (const json& line : lines_of(out())) {
    const std::string name = line["custom_id"];
    if (name == "sound") {
      EXPECT_TRUE(line["error"].is_null()) << line;
      continue;
    }
    EXPECT_EQ(line["error"]["code"], "invalid_request") << line;
    const std::string message = line["error"]["message"];
    if (name == "ids") {
      EXPECT_THAT(message, HasSubstr("token 330 is none of the model's 320"));
    } else {
      EXPECT_THAT(message, names_it());
    }
  }
}

TEST_F(UnknownTokens, OfAMessageTakeItBack) {
  Terminal terminal(
      {"chat", "-m", model_, "--template", "chatml", "--temp", "0", "--ignore-eos", "-c", "512", "-n", "2"},
      (folder_ / "state").string());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("a<far>b\r");
  ASSERT_TRUE(terminal.expect("the message was taken back")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("ab\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.wait(), 0) << terminal.shown();
}

}  // namespace
}  // namespace spillway
