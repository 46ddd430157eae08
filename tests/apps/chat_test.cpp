// `chat` as a person at a terminal meets it, and as a script does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/apps/terminal.h"
#include "tests/support/faults.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Chat : public ::testing::Test {
 protected:
  Chat()
      : model_(write_tiny_model({.layers = 2,
                                 .hidden = 64,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 32,
                                 .ffn = 128,
                                 .vocab = 640,
                                 .type = DType::q4_0,
                                 .name = "chat"},
                                program_.folder().string())) {}

  std::vector<std::string> arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"chat",   "-m", model_,         "--template", "chatml",
                                 "--temp", "0",  "--device-mem", "256MiB",     "--ignore-eos"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string state() const { return (program_.folder() / "state").string(); }
  std::string history() const { return read_file(fs::path(state()) / "spillway" / "history"); }

  // Standard output of the program with `input` as its standard input.
  std::string piped(const std::string& input, const std::vector<std::string>& more, int expected_code = 0) {
    const std::string file = program_.write("input", input), out = (program_.folder() / "piped").string();
    std::string command = "exec " + std::string(SPILLWAY_PROGRAM);
    for (const std::string& word : arguments(more)) command += " '" + word + "'";
    command += " < " + file + " > " + out + " 2> " + out + ".err";
    const std::string whole = "XDG_CACHE_HOME=" + Program::cache() + " " + command;
    const int status = std::system(("timeout 100 sh -c \"" + whole + "\"").c_str());
    EXPECT_EQ(WEXITSTATUS(status), expected_code) << read_file(out + ".err");
    return read_file(out);
  }

  Program program_;
  std::string model_;
};

TEST_F(Chat, TurnsKeepWhatWasComputed) {
  Terminal terminal(arguments({"-c", "1024", "-n", "8"}), state());
  ASSERT_TRUE(terminal.expect("/help  /new")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("hello there\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("and again\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/stats\r");
  ASSERT_TRUE(terminal.expect("of 1024 positions are taken; ")) << terminal.shown();
  const std::string rest = terminal.rest();
  ASSERT_TRUE(terminal.expect("> "));
  EXPECT_GT(std::atoi(rest.c_str()), 10) << "the first turn was kept: " << terminal.shown();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST_F(Chat, CtrlCStopsTheAnswerAndTwiceLeaves) {
  Terminal terminal(arguments({"-c", "4096", "-n", "-1"}), state());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("tell me\r");
  ASSERT_TRUE(terminal.expect("tell me")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("\n")) << terminal.shown();
  usleep(100000);
  EXPECT_TRUE(terminal.is_cooked()) << "while it answers";
  terminal.type("\x03");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/stats\r");  // the turn stands
  ASSERT_TRUE(terminal.expect("positions are taken")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("half a line\x03");  // takes the line back, and does not count
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x03");
  ASSERT_TRUE(terminal.expect("once more")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x03");
  EXPECT_EQ(terminal.wait(), 130) << terminal.shown();
  EXPECT_TRUE(terminal.is_cooked());
}

TEST_F(Chat, HistoryOutlivesTheProgram) {
  {
    Terminal terminal(arguments({"-c", "1024", "-n", "2"}), state());
    ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
    terminal.type("gr\xc3\xbc\xc3\x9f dich\r");
    ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
    terminal.type("\x04");
    EXPECT_EQ(terminal.wait(), 0) << terminal.shown();
  }
  const fs::path file = fs::path(state()) / "spillway" / "history";
  ASSERT_TRUE(fs::exists(file));
  EXPECT_EQ(fs::status(file).permissions() & fs::perms::all, fs::perms::owner_read | fs::perms::owner_write);
  Terminal terminal(arguments({"-c", "1024", "-n", "2"}), state());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x1b[A");
  ASSERT_TRUE(terminal.expect("gr\xc3\xbc\xc3\x9f dich")) << terminal.shown();
  terminal.type("\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST_F(Chat, AMessageOfSeveralLinesIsOneOfTheHistory) {
  const std::string kept = "one\\012two\n";  // as libedit writes a line's end
  {
    Terminal terminal(arguments({"-c", "1024", "-n", "2"}), state());
    ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
    terminal.type("one\\\r");
    ASSERT_TRUE(terminal.expect("| ")) << terminal.shown();
    terminal.type("two\r");
    ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
    terminal.type("\x04");
    EXPECT_EQ(terminal.wait(), 0) << terminal.shown();
  }
  EXPECT_THAT(history(), ::testing::EndsWith("\n" + kept));
  Terminal terminal(arguments({"-c", "1024", "-n", "2"}), state());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x1b[A");
  ASSERT_TRUE(terminal.expect("one")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("two")) << terminal.shown();
  terminal.type(" more\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.wait(), 0);
  EXPECT_THAT(history(), HasSubstr("\n" + kept + "one\\012two\\040more\n"));
}

TEST_F(Chat, AFillingContextIsSaidInTime) {
  Terminal terminal(arguments({"-c", "128", "-n", "30"}), state());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type(std::string(50, 'a') + " b c d\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("e f g\r");
  ASSERT_TRUE(terminal.expect(" of 128 positions")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("/new starts anew")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  std::string much;
  for (int i = 0; i < 40; ++i) much += " x y z";
  terminal.type(much + "\r");
  ASSERT_TRUE(terminal.expect("the context holds 128")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("the message was taken back")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/new\r");
  ASSERT_TRUE(terminal.expect("a new conversation")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("h\r");
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST_F(Chat, AnAnswerThatFillsTheContextIsSaidToBeforeItIsFull) {
  Terminal terminal(arguments({"-c", "128", "-n", "-1", "--ignore-eos"}), state());
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("a\r");
  ASSERT_TRUE(terminal.expect("103 of 128 positions are taken (80 %)")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("the context of 128 positions is full")) << terminal.shown();
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x04");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST_F(Chat, CommandsAreFewAndMisspeltOnesSaid) {
  Terminal terminal(arguments({"-c", "1024", "-n", "3"}), state());
  const std::vector<std::pair<std::string, std::string>> talk{
      {"/regen", "nothing to answer again"},         {"/frobnicate", "/frobnicate is no command"},
      {"/sys be short", "the system prompt is set"}, {"/system", "be short"},
      {"/stats", "0 of 1024 positions are taken"},   {"/h", "/regenerate"},
      {"/s", "/s may be /system, /stats"},           {"/", "/help, /new"}};
  for (const auto& [line, words] : talk) {
    ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
    terminal.type(line + "\r");
    ASSERT_TRUE(terminal.expect("\n")) << terminal.shown();
    ASSERT_TRUE(terminal.expect(words)) << line << "\n" << terminal.shown();
  }
  ASSERT_TRUE(terminal.expect("> ")) << terminal.shown();
  terminal.type("\x04");
  EXPECT_EQ(terminal.wait(), 0);
}

// The turns of a conversation are those of its whole text, computed afresh.
TEST_F(Chat, EachLineOfAPipeIsATurn) {
  const std::string out = piped("first line\nsecond \\\nhalf\n/regenerate\n", {"-c", "1024", "-n", "6", "--json"});
  std::vector<nlohmann::json> answers;
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) answers.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(answers.size(), 3u) << out;
  EXPECT_LT(answers[1]["prompt_tokens"], answers[0]["prompt_tokens"].get<int>() + 40);
  EXPECT_EQ(answers[2]["prompt_tokens"], 1) << "the same prompt again";
  EXPECT_EQ(answers[2]["tokens"], answers[1]["tokens"]) << "greedy";
  const std::string once = piped("", {"-c", "1024", "-n", "6", "--json", "-p", "first line"});
  EXPECT_EQ(nlohmann::json::parse(once)["tokens"], answers[0]["tokens"]);
}

TEST_F(Chat, APipeThatCannotBeAnsweredEndsWithItsReason) {
  std::string much;
  for (int i = 0; i < 200; ++i) much += "x y z ";
  piped(much + "\n", {"-c", "128", "-n", "6"}, 2);
  EXPECT_EQ(piped("", {"-c", "128"}), "");
}

}  // namespace
}  // namespace spillway
