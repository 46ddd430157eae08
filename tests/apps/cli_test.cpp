// The built program as a person meets it: exit codes, streams, JSON, and budgets measured from outside.
#include "tests/apps/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "tests/support/faults.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(Cli, PlanKnowsTheSpeedsOfAMachineSeenForTheFirstTimeWhateverTheBudgets) {
  SKIP_UNDER_SANITIZERS();
  setenv("SPILLWAY_TEST_CACHE", (folder_ / "fresh").c_str(), 1);
  const Result plan = run({"plan", "-m", model_, "--device-mem", "24MiB", "--json"});
  unsetenv("SPILLWAY_TEST_CACHE");
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const auto expected = nlohmann::json::parse(plan.out)["expected"];
  EXPECT_GT(expected["decode_tps"].get<double>(), 0);
}

TEST_F(Cli, GenerateKeepsTextAndTalkApart) {
  const Result result = run({"generate", "-m", model_, "-p", "hello", "-n", "5", "--temp", "0"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_FALSE(result.out.empty());
  EXPECT_THAT(result.err, HasSubstr("device: "));
  EXPECT_THAT(result.err, HasSubstr("weights: "));
  EXPECT_THAT(result.out, ::testing::Not(HasSubstr("device: ")));
}

TEST_F(Cli, GenerateJsonHasTheStableNames) {
  const Result result = run({"generate", "-m", model_, "-p", "hello", "-n", "5", "--temp", "0", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  for (const char* key : {"text", "tokens", "prompt_tokens", "finish_reason", "timings", "bytes", "peak", "plan"})
    EXPECT_TRUE(json.contains(key)) << key;
  for (const char* key : {"load_s", "prefill_s", "prefill_tps", "decode_s", "decode_tps", "ttft_s"})
    EXPECT_TRUE(json["timings"].contains(key)) << key;
  EXPECT_EQ(json["tokens"].size(), 5u);
  EXPECT_EQ(json["finish_reason"], "length");
}

TEST_F(Cli, SameSeedSameTextAndGreedyIgnoresIt) {
  const auto text = [&](const std::string& seed, const std::string& temp) {
    return run({"generate", "-m", model_, "-p", "abc", "-n", "20", "--temp", temp, "-s", seed}).out;
  };
  EXPECT_EQ(text("5", "0.9"), text("5", "0.9"));
  EXPECT_NE(text("5", "0.9"), text("6", "0.9"));
  EXPECT_EQ(text("5", "0"), text("6", "0"));
}

TEST_F(Cli, ScorePrefillAndDecodeAgree) {
  std::string ids;
  for (int i = 0; i < 90; ++i) ids += std::to_string((i * 37) % 600) + ",";
  const auto nll = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"score", "-m", model_, "--tokens", ids, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const auto json = nlohmann::json::parse(result.out);
    EXPECT_EQ(json["tokens"], 89);
    return json["nll"].get<double>();
  };
  EXPECT_NEAR(nll({}), nll({"--prefill", "10"}), 0.05);
  EXPECT_NEAR(nll({}), nll({"--device", "reference"}), 2.0);
}

TEST_F(Cli, IdsNeedNoTokenizer) {
  const std::string folder =
      (fs::path(SPILLWAY_TEST_DATA).parent_path().parent_path() / "runtime/data/hf/qwen2").string();
  const Result scored = run({"score", "-m", folder, "--tokens", "1,2,3,4,5", "--json"});
  ASSERT_EQ(scored.exit_code, 0) << scored.err;
  EXPECT_EQ(nlohmann::json::parse(scored.out)["tokens"], 4);
  EXPECT_EQ(run({"plan", "-m", folder}).exit_code, 0);
  const Result text = run({"score", "-m", folder, "-p", "some text"});
  EXPECT_EQ(text.exit_code, 3);
  EXPECT_THAT(text.err, HasSubstr("the model brings no tokenizer"));
}

TEST_F(Cli, LogitsGoToAnNpyFile) {
  const std::string npy = (folder_ / "logits.npy").string();
  const Result result = run({"score", "-m", model_, "--tokens", "1,2,3,4,5", "--logits", npy, "--last", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string bytes = read_file(npy);
  EXPECT_THAT(bytes, HasSubstr("(2, 640)"));
}

TEST_F(Cli, PlanReservesNothingAndBenchPrintsATable) {
  const Result plan = run({"plan", "-m", model_, "--json"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const auto json = nlohmann::json::parse(plan.out);
  EXPECT_TRUE(json["tiers"]["device"].contains("weights"));
  EXPECT_TRUE(json["expected"].contains("bound"));
  const Result bench = run({"bench", "-m", model_, "-p", "16", "-n", "4", "-r", "2"});
  EXPECT_EQ(bench.exit_code, 0) << bench.err;
  EXPECT_THAT(bench.out, HasSubstr("pp16"));
  EXPECT_THAT(bench.out, HasSubstr("tg4"));
}

TEST_F(Cli, KvInSinglePrecisionIsPlannedSaidAndExact) {
  const auto kv_of = [&](const std::string& type) {
    return nlohmann::json::parse(run({"plan", "-m", model_, "-c", "256", "--json", "--kv-type", type}).out)["kv"];
  };
  const auto half = kv_of("f16"), single = kv_of("f32");
  EXPECT_EQ(half["type"], "fp16");
  EXPECT_EQ(single["type"], "fp32");
  EXPECT_EQ(single["bytes"].get<uint64_t>(), 2 * half["bytes"].get<uint64_t>());
  EXPECT_EQ(single["fp16_bytes"], half["bytes"]);
  EXPECT_THAT(run({"plan", "-m", model_, "-c", "256", "--kv-type", "fp32"}).out, HasSubstr("KV is fp32: "));
  EXPECT_EQ(run({"score", "-m", model_, "--tokens", "1,2,3,4,5", "--kv-type", "f32", "--exact"}).exit_code, 0);
}

TEST_F(Cli, ExitCodesTellWhoIsToMendIt) {
  EXPECT_EQ(run({"--help"}).exit_code, 0);
  EXPECT_EQ(run({"generate", "--bogus"}).exit_code, 2);
  EXPECT_EQ(run({"generate", "-m", model_, "-p", "x", "--device-mem", "lots"}).exit_code, 2);
  EXPECT_EQ(run({"generate", "-m", model_, "-p", "x", "--device", "tpu"}).exit_code, 2);
  EXPECT_EQ(run({"generate", "-m", (folder_ / "none.gguf").string(), "-p", "x"}).exit_code, 3);
  const Result small = run({"generate", "-m", model_, "-p", "x", "--device-mem", "1MiB"});
  EXPECT_EQ(small.exit_code, 4);
  EXPECT_THAT(small.err, HasSubstr("nearest fit"));
  const Result long_prompt = run({"generate", "-m", model_, "-f", prompt_file(400), "-c", "64"});
  EXPECT_EQ(long_prompt.exit_code, 2);
  EXPECT_THAT(long_prompt.err, HasSubstr("64"));
}

TEST_F(Cli, ATruncatedFileIsNamedWithItsOffset) {
  fs::resize_file(model_, fs::file_size(model_) / 2);
  const Result result = run({"generate", "-m", model_, "-p", "x"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("program.gguf"));
}

TEST_F(Cli, TheContextsEndIsSaid) {
  const Result result = run({"generate", "-m", model_, "-p", "hello there", "-n", "500", "-c", "64", "--temp", "0",
                             "--ignore-eos", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out)["finish_reason"], "length");
  EXPECT_THAT(result.err, HasSubstr("context of 64 positions is full"));
}

TEST_F(Cli, TheEnvironmentIsATwinAndTheFlagWins) {
  setenv("SPILLWAY_PREDICT", "3", 1);
  const Result twin = run({"generate", "-m", model_, "-p", "hello", "--temp", "0", "--json"});
  const Result flag = run({"generate", "-m", model_, "-p", "hello", "--temp", "0", "--json", "-n", "2"});
  unsetenv("SPILLWAY_PREDICT");
  setenv("SPILLWAY_NO_COLOR", "maybe", 1);
  const Result neither = run({"generate", "-m", model_, "-p", "hello"});
  unsetenv("SPILLWAY_NO_COLOR");
  EXPECT_EQ(neither.exit_code, 2);
  EXPECT_THAT(neither.err, HasSubstr("SPILLWAY_NO_COLOR: 'maybe'"));
  ASSERT_EQ(twin.exit_code, 0) << twin.err;
  EXPECT_EQ(nlohmann::json::parse(twin.out)["tokens"].size(), 3u);
  EXPECT_EQ(nlohmann::json::parse(flag.out)["tokens"].size(), 2u);
}

// Spilled KV is unnamed: nothing of it is left whatever ends the process.
TEST_F(Cli, NothingIsLeftOnDiskAfterKill) {
  const fs::path spill = folder_ / "spill";
  fs::create_directories(spill);
  const pid_t child = start({"generate", "-m", model_, "-f", prompt_file(300), "-n", "3000", "--ignore-eos",
                             "--device-mem", tight_budget(4800), "--disk-mem", "64MiB", "--disk-dir", spill.string()});
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(fs::is_empty(spill));
}

TEST_F(Cli, TheMachineIsMeasuredOnce) {
  const std::string cache = (folder_ / "new" / "cache").string();  // not there yet
  setenv("SPILLWAY_TEST_CACHE", cache.c_str(), 1);
  const Result first = run({"plan", "-m", model_});
  // What was measured beside others' work is measured again, twice at most.
  Result second = run({"plan", "-m", model_});
  for (int i = 0; i < 2 && second.err.find("measuring") != std::string::npos; ++i) second = run({"plan", "-m", model_});
  unsetenv("SPILLWAY_TEST_CACHE");
  EXPECT_THAT(first.err, HasSubstr("measuring this machine"));
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(second.err, ::testing::Not(HasSubstr("measuring")));
  EXPECT_TRUE(fs::is_regular_file(fs::path(cache) / "spillway" / "machine.json"));
}

TEST_F(Cli, AmountsBeyondAnyCountAreRefused) {
  const std::string most = std::to_string(INT32_MAX);
  EXPECT_THAT(run({"bench", "-m", model_, "-p", most, "-n", most, "-d", most}).exit_code, ::testing::AnyOf(2, 4));
  EXPECT_EQ(run({"plan", "-m", model_, "-c", most}).exit_code, 2);
  EXPECT_EQ(run({"generate", "-m", model_, "-p", "abc", "-n", "200000000", "--device-mem", "64MiB"}).exit_code, 4);
}

// Every command, whatever it prints: a full drive is no success.
TEST_F(Cli, OutputThatIsLostIsAnError) {
  for (const std::string arguments :
       {"generate -p hello -n 3", "generate -p hello -n 3 --json", "score --tokens 1,2,3 --json", "plan", "plan --json",
        "bench -p 4 -n 0 -r 1", "bench -p 4 -n 0 -r 1 -o json"}) {
    const std::string command = std::string(SPILLWAY_PROGRAM) + " " + arguments + " -m " + model_ + " 2>&1 >/dev/full";
    const auto outcome =
        faults::run_command({}, {"/usr/bin/env", "XDG_CACHE_HOME=" + Program::cache(), "/bin/sh", "-c", command});
    if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters";
    EXPECT_EQ(outcome.exit_code, 5) << command << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("standard output: No space left on device"));
  }
  EXPECT_EQ(run({"generate", "-m", model_, "-p", "hello", "-n", "3", "--trace", "/dev/full"}).exit_code, 5);
}

TEST_F(Cli, AnInterruptEndsEveryCommandWith130) {
  const std::string prompt = prompt_file(3000);
  const std::vector<std::vector<std::string>> commands{{"generate", "-f", prompt, "-n", "1"},
                                                       {"generate", "-p", "x", "-n", "100000", "--ignore-eos"},
                                                       {"score", "-f", prompt, "-c", "64"},
                                                       {"bench", "-p", "64", "-n", "64", "-r", "1000"}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"-m", model_, "--device", "reference", "-ub", "16"});
    fs::remove(folder_ / "err");
    const pid_t child = start(command);
    // The placement is said when the handler stands.
    for (int i = 0; i < 1000 && read_file(folder_ / "err").find("weights: ") == std::string::npos; ++i) usleep(10000);
    kill(child, SIGINT);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 130)
        << command.front() << " " << status << read_file(folder_ / "err");
    EXPECT_THAT(read_file(folder_ / "err"), HasSubstr("interrupted"));
  }
}

TEST_F(Cli, RefusalsAreOneLineThatNamesTheFlag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "one of generate, chat, batch, score, plan, bench, quality, calibrate, inspect, doctor, completion"},
      {{"generat"}, "'generat' is no command"},
      {{"generat", "--help"}, "'generat' is no command"},
      {{"generate", "-p", "x", "-c", "999999999999"}, "--ctx-size: 999999999999 is more than 268435456"},
      {{"generate", "-p", "x", "-c", "-1"}, "--ctx-size: -1 is less than 0"},
      {{"generate", "-p", "x", "--temp", "inf"}, "--temp: 'inf' is not a number"},
      {{"generate", "-p", "x", "-n", "-2"}, "-2 is less than -1"},
      {{"generate", "-f", folder_.string()}, "is a directory"},
      {{"generate", "-p", ""}, "the prompt is empty"},
      {{"generate", "-p", "x", "-f", model_}, "one is wanted"},
      {{"generate", "-p", "x", "--disk-mem", "1MiB", "--disk-dir", "/nonexistent"}, "no such folder"},
      {{"chat", "-p", ""}, "the message is empty"},
      {{"chat", "-p", "x", "--template", "alpaca"}, "--template alpaca: neither a file nor one of chatml"},
      {{"score", "--tokens", "1,,3"}, "no id before the comma"},
      {{"score", "--tokens", "1,2", "-p", "x"}, "--tokens takes the place of a text"},
      {{"score", "--tokens", "1,2", "--prefill", "9"}, "--prefill 9"},
      {{"bench", "-p", "0", "-n", "0"}, "nothing to measure"}};
  for (auto [arguments, words] : cases) {
    if (arguments.size() > 1) arguments.insert(arguments.end(), {"-m", model_});
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, 2) << words << result.err;
    EXPECT_THAT(result.err, ::testing::StartsWith("spillway: "));
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST_F(Cli, WordsOfLlamaCppAndTheEnvironment) {
  EXPECT_EQ(run({"generate", "-m", model_, "-p", "x", "-n", "9", "-n", "1", "-ub", "16"}).exit_code, 0)
      << "the last of two counts";
  setenv("SPILLWAY_PROMPT", "x", 1);
  setenv("SPILLWAY_PREDICT", "2", 1);
  setenv("SPILLWAY_JSON", "1", 1);
  std::ofstream(folder_ / "text") << "hello hello hello";
  const auto by_twin = nlohmann::json::parse(run({"generate", "-m", model_}).out);
  EXPECT_EQ(by_twin["tokens"].size(), 2u);
  const auto by_flag =
      nlohmann::json::parse(run({"generate", "-m", model_, "-n", "1", "-f", (folder_ / "text").string()}).out);
  for (const char* name : {"SPILLWAY_PROMPT", "SPILLWAY_PREDICT", "SPILLWAY_JSON"}) unsetenv(name);
  EXPECT_EQ(by_flag["tokens"].size(), 1u);
  EXPECT_GT(by_flag["prompt_tokens"].get<int>(), by_twin["prompt_tokens"].get<int>());
}

TEST_F(Cli, ABenchThatItsContextCannotHoldIsRefusedFirst) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"-p", "128", "-n", "4"}, "the test pp128 takes 128 positions, but the context holds 64 (-c)"},
      {{"-p", "16,65", "-n", "0"}, "the test pp65 takes 65 positions"},
      {{"-p", "0", "-n", "4,100"}, "the test tg100 takes 100 positions"},
      {{"-p", "32", "-n", "4", "-d", "0,40"}, "the test pp32 @ d40 takes 72 positions"},
      {{"-p", "0", "-n", "20", "-r", "4", "--go-on"}, "the test tg20 takes 80 positions"}};
  for (const auto& [tests, words] : cases) {
    std::vector<std::string> command{"bench", "-m", model_, "-r", "1", "-c", "60"};  // a page: 64
    command.insert(command.end(), tests.begin(), tests.end());
    const Result result = run(command);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, ::testing::StartsWith("spillway: "));
    EXPECT_THAT(result.err, HasSubstr(words));
  }
  EXPECT_EQ(run({"bench", "-m", model_, "-r", "1", "-c", "60", "-p", "32", "-n", "4", "-d", "32"}).exit_code, 0);
  EXPECT_EQ(run({"bench", "-m", model_, "-r", "3", "-c", "60", "-p", "0", "-n", "4", "-d", "50", "--go-on"}).exit_code,
            0);
}

// What stands before a test may be read with a window, and once for all runs, whatever decode steps go by.
TEST_F(Cli, ABenchBehindALongTextReadsItOnce) {
  for (const char* policy : {"--kv-keep=heavy", "--kv-keep=window", "--kv-select=bounds", "--kv-select=oracle"}) {
    const Result result = run({"bench",
                               "-m",
                               model_,
                               "-p",
                               "0",
                               "-n",
                               "4",
                               "-r",
                               "3",
                               "-d",
                               "300",
                               "--go-on",
                               "--depth-window",
                               "32",
                               policy,
                               "--first-layers",
                               "rehearsed",
                               "--select-budget",
                               "64",
                               "--stats",
                               "-o",
                               "json"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const nlohmann::json row = nlohmann::json::parse(result.out)[0];
    EXPECT_EQ(row["samples_ts"].size(), 3u);
    EXPECT_EQ(row["n_depth"], 300);
    // Of so many positions in each step; in every run four more stand there.
    const auto seen = [](int depth) { return depth + 1 + depth + 2 + depth + 3 + depth + 4; };
    const int all = seen(300) + seen(304) + seen(308);
    EXPECT_EQ(row["selection"]["tokens_seen"].get<int>() % all, 0) << row["selection"];
    EXPECT_GT(row["selection"]["tokens_read"].get<int>(), 0);
  }
}

// Sequences share a pass, and the weights that it streams; where their steps look at what they miss, they take turns.
TEST_F(Cli, ABenchOfManySequences) {
  EXPECT_THAT(run({"bench", "-m", model_, "-p", "0", "-n", "4", "-r", "1", "-d", "8", "--parallel", "3"}).out,
              HasSubstr("tg4 x3 @ d8"));
  SKIP_UNDER_SANITIZERS();
  const std::string model = write_tiny_model({.layers = 6,
                                              .hidden = 256,
                                              .heads = 4,
                                              .kv_heads = 2,
                                              .head_dim = 64,
                                              .ffn = 768,
                                              .vocab = 320,
                                              .type = DType::f32,
                                              .name = "parallel"},
                                             folder_.string());
  const auto read_per_token = [&](std::vector<std::string> policy) {
    policy.insert(policy.end(), {"-m", model, "-c", "256", "--parallel", "4"});
    const auto with = [&](std::vector<std::string> command) {
      command.insert(command.end(), policy.begin(), policy.end());
      const Result result = run(command);
      EXPECT_EQ(result.exit_code, 0) << result.err;
      return nlohmann::json::parse(result.out);
    };
    const nlohmann::json device = with({"plan", "--json"})["tiers"]["device"];
    uint64_t budget = device["weights"].get<uint64_t>() / 2;
    for (const char* what : {"process", "workspace", "kv", "selection"}) budget += device[what].get<uint64_t>();
    const nlohmann::json row = with({"bench", "-p", "0", "-n", "5", "-r", "2", "-d", "200", "-o", "json",
                                     "--device-mem", std::to_string(budget)})[0];
    const double read = row["bytes_per_token"]["disk_read"].get<double>();
    EXPECT_GT(read, 0);
    return std::pair(row["n_parallel"].get<int>(), read);
  };
  const auto [four, shared] = read_per_token({});
  std::vector<std::string> oracle{"--kv-select=oracle", "--select-budget=64", "--first-layers=rehearsed",
                                  "--granule=1"};
  const auto [also_four, together] = read_per_token(oracle);
  oracle.push_back("--check-every=7");
  EXPECT_EQ(std::pair(four, also_four), std::pair(4, 4));
  EXPECT_LT(together, 1.5 * shared);
  EXPECT_GT(read_per_token(oracle).second, 2 * shared);
}

TEST_F(Cli, SmallerChunksThatWouldHoldMoreAreSaid) {
  SKIP_UNDER_SANITIZERS();
  const Result plan = run({"plan", "-m", model_, "-c", "4096", "-ub", "4096", "--json"});
  const auto json = nlohmann::json::parse(plan.out);
  const auto device = json["tiers"]["device"];
  const auto of = [&](const char* what) { return device[what].get<uint64_t>(); };
  // Weights can stream; a part of the chunk's workspace, or of the KV, is missing.
  const std::string tight = std::to_string(of("process") + of("workspace") + of("kv") - (6 << 20));
  const std::vector<std::string> all{"plan", "-m", model_, "-c", "4096", "-ub", "4096", "--device-mem", tight};
  const Result refused = run(all);
  ASSERT_EQ(refused.exit_code, 4) << refused.err;
  ASSERT_THAT(refused.err, HasSubstr(", or -ub "));
  auto smaller = all;
  smaller[6] = std::to_string(std::stoi(refused.err.substr(refused.err.find("-ub ") + 4)));
  const Result taken = run(smaller);
  EXPECT_EQ(taken.exit_code, 0) << taken.err;
  const std::string little = std::to_string(of("process") + (3 << 20));
  const std::vector<std::string> some{"plan", "-m", model_, "--device-mem", little};
  const Result said = run(some);
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_THAT(said.err, ::testing::ContainsRegex("positions are what the budgets allow \\(with -ub 64: [0-9]+\\)"));
  auto chosen = some;
  chosen.insert(chosen.end(), {"-ub", "512"});
  EXPECT_THAT(run(chosen).err, ::testing::Not(HasSubstr("-ub")));
}

// Of a budget that is a few bytes short, and what is needed, the bytes stand beside both.
TEST_F(Cli, ABudgetThatReadsLikeTheNeedIsToldApart) {
  SKIP_UNDER_SANITIZERS();
  // Of a refusal: the budget, the need, and the need's bytes where they stand there.
  const auto numbers_of = [&](uint64_t budget) -> std::vector<std::string> {
    const Result result = run({"plan", "-m", model_, "-c", "512", "--device-mem", std::to_string(budget)});
    if (result.exit_code == 0) return {};
    const std::regex pattern(R"(is ([0-9.]+) MiB \([0-9]+ bytes\), but at least ([0-9.]+) MiB( \([0-9]+ bytes\))? is)");
    std::smatch match;
    EXPECT_TRUE(std::regex_search(result.err, match, pattern)) << result.err;
    return {match[1], match[2], match[3]};
  };
  const std::vector<std::string> first = numbers_of(1 << 20);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[2], "") << "they differ in MiB";
  const auto bytes_of = [](const std::string& mib) { return static_cast<uint64_t>(std::stod(mib) * (1 << 20)); };
  // What the process takes varies from one to the next: closer from below to what the last one needed.
  uint64_t budget = bytes_of(first[1]);
  int alike = 0;
  for (uint64_t tried = 0; tried < 60 && alike < 3; ++tried) {
    const std::vector<std::string> found = numbers_of(budget);
    budget = (found.empty() ? budget : bytes_of(found[1])) - tried % 10 * (10 << 10);
    if (found.empty()) continue;
    EXPECT_EQ(found[0] == found[1], !found[2].empty()) << found[0] << " of " << found[1] << found[2];
    alike += found[0] == found[1];
  }
  EXPECT_GT(alike, 0);
}

TEST_F(Cli, LayersAreDividedByNumberOrWord) {
  const auto planned = [&](const std::string& layers) {
    const Result result = run({"plan", "-m", model_, "--host-mem", "64MiB", "-ngl", layers, "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  };
  const int all = planned("all")["device_layers"];
  ASSERT_GE(all, 2);
  for (const char* layers : {"auto", "99"}) EXPECT_EQ(planned(layers)["device_layers"], all) << layers;
  for (int count = 0; count < all; ++count) {
    const nlohmann::json plan = planned(std::to_string(count));
    EXPECT_EQ(plan["device_layers"], count);
    EXPECT_EQ(plan["cpu_layers"], all - count);
    std::set<std::string> on_device;
    for (const nlohmann::json& tensor : plan["tensors"]) {
      if (tensor["computed_by"] == "device") on_device.insert(tensor["name"].get<std::string>().substr(0, 7));
    }
    EXPECT_EQ(on_device.size(), static_cast<size_t>(count) + 1) << "and the head";
  }
  for (const char* wrong : {"-1", "half", "2x", ""}) {
    const Result result = run({"plan", "-m", model_, "-ngl", wrong});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("-ngl"));
  }
  EXPECT_THAT(run({"generate", "-m", model_, "-p", "x", "-n", "1", "-ngl", "1"}).err,
              HasSubstr("-ngl changes nothing: the CPU is the device"));
}

TEST_F(Cli, FlagsThatChangeNothingAreNamedAloneOrTogether) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{"--disk-mem", "1MiB"}, "everything fits the device: --disk-mem changes nothing\n"},
      {{"--host-mem", "64MiB"}, "everything fits the device: --host-mem changes nothing\n"},
      {{"--lookahead", "3"}, "everything fits the device: --lookahead changes nothing\n"},
      {{"--host-mem", "64MiB", "--disk-mem", "1MiB"}, ": --host-mem and --disk-mem change nothing\n"},
      {{"--host-mem", "64MiB", "--disk-mem", "1MiB", "--lookahead", "3"},
       ": --host-mem, --disk-mem and --lookahead change nothing\n"}};
  for (const auto& [flags, words] : cases) {
    std::vector<std::string> command{"generate", "-m", model_, "-p", "x", "-n", "1", "--disk-dir", folder_.string()};
    command.insert(command.end(), flags.begin(), flags.end());
    const Result result = run(command);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.err, HasSubstr(words));
  }
  EXPECT_THAT(run({"generate", "-m", model_, "-p", "x", "-n", "1"}).err, ::testing::Not(HasSubstr("nothing")));
}

TEST_F(Cli, ABudgetBeyondWhatIsFreeIsSaidAndRuns) {
  const Result result = run({"generate", "-m", model_, "-p", "x", "-n", "1", "--device-mem", "99999GiB"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("--device-mem 99999GiB is more than the "));
  EXPECT_THAT(run({"generate", "-m", model_, "-p", "x", "-n", "1", "--device-mem", "50%"}).err,
              ::testing::Not(HasSubstr("is more than")));
}

TEST_F(Cli, MemoryThatIsNotThereIsRefusedBeforeItIsReserved) {
  const Result result = run({"plan", "-m", model_, "--device-mem", "1000TiB", "-c", "100000000"});
  EXPECT_EQ(result.exit_code, 4) << result.out;
  EXPECT_THAT(result.err, HasSubstr("are free here"));
}

}  // namespace
}  // namespace spillway
