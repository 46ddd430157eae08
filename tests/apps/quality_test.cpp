// `calibrate` and `quality`, as a person meets them, on a tiny model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/quality_report.h"
#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class QualityCommand : public ::testing::Test {
 protected:
  QualityCommand()
      : model_(
            write_tiny_model({.layers = 4, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 32, .name = "judged"},
                             program_.folder().string())) {
    // What was measured of the machine, and no skew from an earlier run.
    const std::filesystem::path cache = program_.folder() / "cache", machine = "spillway/machine.json";
    std::filesystem::create_directories(cache / "spillway");
    std::error_code none_yet;
    std::filesystem::copy_file(Program::cache() / machine, cache / machine, none_yet);
    setenv("SPILLWAY_TEST_CACHE", cache.c_str(), 1);
    std::string words;
    for (int i = 0; i < 900; ++i) words += "word " + std::to_string(i * 37 % 101) + (i % 9 == 8 ? ".\n" : " ");
    text_ = program_.write("text.txt", words);
  }
  ~QualityCommand() override { unsetenv("SPILLWAY_TEST_CACHE"); }
  Result quality(std::vector<std::string> more) const {
    std::vector<std::string> words{"quality", "-m",        model_, "-f",       text_, "-c",         "512", "--steps",
                                   "64",      "--windows", "2",    "--greedy", "8",   "--passkeys", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return program_.run(words);
  }

  Program program_;
  std::string model_, text_;
};

TEST_F(QualityCommand, MeasuresEachPolicyBesideTheFullCache) {
  const Result result =
      quality({"--json", "--device-mem", "512MiB", "--policies", "--kv-select oracle --select-budget 128",
               "--kv-select rehearsal --select-budget 128", "--kv-type kivi4 --kv-edge-layers 1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json["policies"].size(), 4u);
  const auto& full = json["policies"][0];
  EXPECT_EQ(full["policy"], "");
  EXPECT_EQ(full["kl"], 0.0);
  EXPECT_EQ(full["top1"], 1.0);
  EXPECT_EQ(full["rows"], 128);
  EXPECT_TRUE(full["missed_mass"].is_null());
  for (int i = 1; i < 4; ++i) {
    const auto& policy = json["policies"][i];
    EXPECT_GT(policy["kl"], 0.0) << policy["policy"];
    EXPECT_LT(policy["kl"], 1.0) << policy["policy"];
    EXPECT_GE(policy["kl_p95"], policy["kl"]);
    EXPECT_EQ(policy["windows"].size(), 2u);
    EXPECT_EQ(policy["greedy"]["tokens"], 16);
    EXPECT_EQ(policy["passkeys"].size(), 3u);
    EXPECT_TRUE(policy["bytes_per_step"]["host_to_device"].contains("kv_fetch"));
    EXPECT_GT(policy["kv_device_bytes"], 0);
  }
  for (const int i : {1, 2}) {
    const auto& choosing = json["policies"][i];
    EXPECT_GT(choosing["missed_mass"], 0.0);
    EXPECT_LT(choosing["selection"]["tokens_read"], choosing["selection"]["tokens_seen"]);
    EXPECT_EQ(choosing["plan"]["selection"]["selector"], i == 1 ? "oracle" : "rehearsal");
  }
  EXPECT_THAT(result.err, HasSubstr("no skew of this model is kept yet"));
  EXPECT_EQ(json["policies"][3]["plan"]["kv"]["type"], "kivi4");
  const Result text = quality({"--policies", "--kv-type q8 --kv-edge-layers 1"});
  EXPECT_THAT(text.out, HasSubstr("| full, fp16 | "));
  EXPECT_THAT(text.out, HasSubstr("| --kv-type q8 --kv-edge-layers 1 | "));
}

// At one budget all of them read as many tokens; what is let go is no longer kept.
TEST_F(QualityCommand, BaselinesStandInTheSameTable) {
  const Result result = quality({"--json", "--device-mem", "512MiB", "--passkeys", "0", "--policies",
                                 "--kv-keep window --select-budget 128 --first-layers rehearsed",
                                 "--kv-keep heavy --select-budget 128 --first-layers rehearsed",
                                 "--kv-select bounds --select-budget 128 --first-layers rehearsed"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json["policies"].size(), 4u);
  const uint64_t all = json["policies"][0]["kv_kept_bytes"];
  for (int i = 1; i < 4; ++i) {
    const auto& policy = json["policies"][i];
    EXPECT_GT(policy["kl"], 0.0) << policy["policy"];
    EXPECT_GT(policy["missed_mass"], 0.0) << policy["policy"];
    const double read = policy["selection"]["tokens_read"], seen = policy["selection"]["tokens_seen"];
    EXPECT_NEAR(read / seen, 128.0 / 480, 0.02) << policy["policy"];
  }
  // 512 tokens are 8 pages of a layer and KV head; of a window of 128 three or four are left.
  EXPECT_LE(json["policies"][1]["kv_kept_bytes"].get<uint64_t>(), all / 2);
  EXPECT_LE(json["policies"][2]["kv_kept_bytes"].get<uint64_t>(), all);
  EXPECT_EQ(json["policies"][3]["kv_kept_bytes"].get<uint64_t>(), all);
  EXPECT_EQ(json["policies"][1]["plan"]["selection"]["keep"], "window");
  EXPECT_GT(json["policies"][2]["plan"]["selection"]["bytes"]["attention_sums"], 0);
  EXPECT_GT(json["policies"][3]["plan"]["selection"]["bytes"]["key_bounds"], 0);
  // Half of what heavy hitters keep is the window's.
  EXPECT_LT(json["policies"][2]["missed_mass"], json["policies"][1]["missed_mass"]);
}

TEST_F(QualityCommand, WhatCannotBeMeasuredIsRefused) {
  struct Case {
    std::vector<std::string> flags;
    const char* says;
  };
  const Case cases[] = {{{"--policies", "--kv-select wild "}, "--policies \"--kv-select wild \": --kv-select"},
                        {{"--policies", "--kv-select oracle -n 3"}, "--policies \"--kv-select oracle -n 3\""},
                        {{"--policies", "--exact --kv-type q8"}, "--exact"},
                        {{"--steps", "512"}, "--steps 512"},
                        {{"--greedy", "65"}, "--greedy 65"},
                        {{"-c", "100000"}, "less than one window of 100000"}};
  for (const Case& one : cases) {
    const Result result = quality(one.flags);
    EXPECT_EQ(result.exit_code, 2) << one.says;
    EXPECT_THAT(result.err, HasSubstr(one.says));
  }
}

TEST_F(QualityCommand, FewerStepsAreFewerGreedyTokens) {
  const Result result = program_.run({"quality", "-m", model_, "-f", text_, "-c", "128", "--steps", "8", "--windows",
                                      "1", "--passkeys", "0", "--json", "--policies", "--kv-type q8"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["policies"][1]["greedy"]["tokens"], 8);
}

TEST_F(QualityCommand, APolicyThatDoesNotFitIsRefusedBeforeAnyIsMeasured) {
  const Result result =
      quality({"--host-mem", "64MiB", "--policies", "--kv-type q8", "--kv-type q4 --kv-device-mem 1KiB"});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("--policies \"--kv-type q4 --kv-device-mem 1KiB\""));
  EXPECT_THAT(result.err, HasSubstr("nearest fit: --kv-device-mem"));
  EXPECT_THAT(result.err, Not(HasSubstr("window 1 of")));
}

TEST_F(QualityCommand, AnInterruptLosesNoPolicyThatWasMeasured) {
  const pid_t child =
      program_.start({"quality", "-m", model_, "-f", text_, "-c", "2048", "--steps", "1024", "--windows", "3",
                      "--passkeys", "0", "--policies", "--kv-type q8", "--kv-type kivi4"});
  const auto err = [&] { return read_file(program_.folder() / "err"); };
  for (int i = 0; i < 12000 && err().find("policy: --kv-type kivi4") == std::string::npos; ++i) usleep(10000);
  kill(child, SIGINT);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130) << err();
  const std::string out = read_file(program_.folder() / "out");
  EXPECT_THAT(out, HasSubstr("--kv-type q8"));
  EXPECT_THAT(out, Not(HasSubstr("--kv-type kivi4")));
}

TEST_F(QualityCommand, CalibrateKeepsASkewAndSaysWhere) {
  const Result made = program_.run({"calibrate", "-m", model_, "-f", text_, "-c", "256", "--json"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto json = nlohmann::json::parse(made.out);
  EXPECT_EQ(json["context"], 256);
  EXPECT_TRUE(std::filesystem::exists(json["path"].get<std::string>()));
  EXPECT_GT(json["tokens"], 256);
  EXPECT_LE(json["query_error"]["ridge"], json["query_error"]["gain"]);
  const Result gain = program_.run({"calibrate", "-m", model_, "-f", text_, "-c", "256", "--query", "gain"});
  EXPECT_THAT(gain.out, HasSubstr("256 positions"));
  const Result longer = program_.run({"calibrate", "-m", model_, "-f", text_, "-c", "60000"});
  EXPECT_EQ(longer.exit_code, 2);
  EXPECT_THAT(longer.err, HasSubstr("60000 positions"));
  EXPECT_EQ(program_.run({"calibrate", "-m", model_, "--query", "guess"}).exit_code, 2);
}

TEST(QualityReport, AKeyThatTheFullCacheMissesCountsForNobody) {
  QualityReport report{.model = "m", .text = "t", .window = 64, .steps = 8, .policies = {}};
  report.policies.resize(2);
  report.policies[1].policy = "--kv-type q8";
  report.policies[0].passkeys = {{10, 1, 1}, {50, 18, 20}, {90, 19, 20}};
  report.policies[1].passkeys = {{10, 0, 1}, {50, 20, 20}, {90, 7, 20}};
  EXPECT_TRUE(passkey_counts(report, 0));
  EXPECT_FALSE(passkey_counts(report, 1));
  EXPECT_TRUE(passkey_counts(report, 2));
  EXPECT_THAT(quality_text(report), HasSubstr("| --kv-type q8 | 0/1 - 7/20 |"));
  EXPECT_EQ(quality_json(report)["policies"][1]["passkeys"][1]["counts"], false);
}

}  // namespace
}  // namespace spillway
