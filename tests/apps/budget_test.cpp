// Budgets are promises measured from outside: whatever command runs, with weights streaming and KV in one, two or three
// tiers, its largest resident set stays within what it was given. And what is said to be the nearest fit fits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr int kTokens = 1000;

class BudgetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_UNDER_SANITIZERS();
    // About 13 MiB of weights and 17 MiB of KV: what is taken from either is more than the 8 MiB that a plan leaves to
    // the process's stacks and heap, so that keeping what should have left is seen.
    model_ = write_tiny_model({.layers = 4,
                               .hidden = 128,
                               .heads = 8,
                               .kv_heads = 8,
                               .head_dim = 128,
                               .ffn = 6656,
                               .vocab = 320,
                               .context = 4096,
                               .type = DType::q8_0,
                               .seed = 4,
                               .name = "budget"},
                              program_.folder().string());
    for (int i = 0; i < kTokens; ++i) text_ += static_cast<char>('A' + i % 26);  // a token each: nothing merges
    const json plan = json::parse(
        program_.run({"plan", "-m", model_, "-ub", "128", "-c", std::to_string(kTokens + 50), "--json"}).out);
    const json& device = plan["tiers"]["device"];
    weights_ = device["weights"];
    kv_ = device["kv"];
    fixed_ = device["process"].get<uint64_t>() + device["workspace"].get<uint64_t>();
    ASSERT_GT(weights_, 12 * kMiB);
    ASSERT_GT(kv_, 16 * kMiB);
  }

  std::vector<std::vector<std::string>> commands() {
    const std::string prompt = program_.write("prompt.txt", text_);
    // Small chunks: their activations would hide what is measured here.
    return {{"generate", "-m", model_, "-ub", "128", "-f", prompt, "-n", "4", "--temp", "0", "--ignore-eos", "--json"},
            {"chat", "-m", model_, "-ub", "128", "-p", text_, "-n", "4", "--temp", "0", "-c",
             std::to_string(kTokens + 50), "--json"},
            {"score", "-m", model_, "-ub", "128", "-f", prompt, "-c", std::to_string(kTokens), "--json"},
            {"bench", "-m", model_, "-ub", "128", "-p", std::to_string(kTokens), "-n", "4", "-r", "1", "--no-warmup",
             "--json"}};
  }

  static std::vector<std::string> with(std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  // Runs every command in these budgets; 0: not given.
  void expect_within(uint64_t device, uint64_t host, uint64_t disk) {
    std::vector<std::string> flags{"--device-mem", std::to_string(device)};
    if (host > 0) flags = with(flags, {"--host-mem", std::to_string(host)});
    if (disk > 0) flags = with(flags, {"--disk-mem", std::to_string(disk), "--disk-dir", program_.folder().string()});
    for (const std::vector<std::string>& command : commands()) {
      SCOPED_TRACE(command.front() + " --device-mem " + std::to_string(device) + " --host-mem " + std::to_string(host));
      const Result result = program_.run(with(command, flags));
      ASSERT_EQ(result.exit_code, 0) << result.err;
      EXPECT_LE(result.peak_bytes, device + host) << result.err;
      if (command.front() != "generate" && command.front() != "chat") continue;
      const json report = json::parse(result.out);
      const auto spilled = [&](const char* link) { return report["bytes"][link]["kv_spill"].get<uint64_t>(); };
      if (disk > 0) {
        EXPECT_GT(spilled("disk_write"), kv_ / 4) << "KV must have left for the disk";
        EXPECT_GT(report["bytes"]["disk_read"]["kv_fetch"].get<uint64_t>(), kv_ / 4);
      }
      if (host > 0 && disk == 0) {
        EXPECT_GT(spilled("device_to_host"), kv_ / 4) << "KV must have left for the host";
      }
      EXPECT_LE(report["peak"]["device"].get<uint64_t>(), device);
      EXPECT_LE(report["peak"]["host"].get<uint64_t>(), host);
      EXPECT_LE(report["peak"]["disk"].get<uint64_t>(), disk);
    }
  }

  Program program_;
  std::string model_, text_;
  uint64_t weights_ = 0, kv_ = 0, fixed_ = 0;
};

TEST_F(BudgetTest, WithoutOneMuchMoreIsTaken) {
  for (const std::vector<std::string>& command : commands()) {
    const Result result = program_.run(command);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    // The other tests give a third of weights and KV together, or a quarter of the weights.
    EXPECT_GT(result.peak_bytes, fixed_ - 8 * kMiB + (weights_ + kv_) / 2) << command.front();
  }
}

TEST_F(BudgetTest, WeightsStream) { expect_within(fixed_ + kv_ + weights_ / 4, 0, 0); }

TEST_F(BudgetTest, ARecordIsInsideToo) {
  const uint64_t budget = fixed_ + kv_ + weights_ / 2 + 8 * kMiB;
  const Result result = program_.run(with(commands().front(), {"--device-mem", std::to_string(budget), "--trace",
                                                               (program_.folder() / "trace.json").string()}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_LE(result.peak_bytes, budget) << result.err;
}

TEST_F(BudgetTest, KvSpillsToDisk) { expect_within(fixed_ + (weights_ + kv_) / 3, 0, 2 * kv_); }

TEST_F(BudgetTest, KvSpillsToTheHost) { expect_within(fixed_ + (weights_ + kv_) / 3, 7 * kMiB + kv_, 0); }

TEST_F(BudgetTest, KvSpillsToTheHostAndToDisk) {
  expect_within(fixed_ + (weights_ + kv_) / 3, 7 * kMiB + kv_ / 4, 2 * kv_);
}

TEST_F(BudgetTest, LayersComputedBesideTheDeviceAreTheHosts) {
  const uint64_t device = fixed_ + (weights_ + kv_) / 2, host = 14 * kMiB + weights_ + kv_;
  const std::vector<std::string> split{"--device-mem", std::to_string(device), "--host-mem", std::to_string(host)};
  for (const std::vector<std::string>& command : commands()) {
    SCOPED_TRACE(command.front());
    const Result whole = program_.run(command);
    const Result result = program_.run(with(with(command, split), {"-ngl", "1"}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_LE(result.peak_bytes, device + host) << result.err;
    EXPECT_NE(result.err.find("computed by the CPU in host RAM, layer"), std::string::npos) << result.err;
    if (command.front() != "generate") continue;
    const json report = json::parse(result.out);
    EXPECT_EQ(report["plan"]["device_layers"], 1);
    EXPECT_EQ(report["tokens"], json::parse(whole.out)["tokens"]) << "both are this CPU";
    EXPECT_LE(report["peak"]["device"].get<uint64_t>(), device);
    EXPECT_LE(report["peak"]["host"].get<uint64_t>(), host);
  }
}

TEST_F(BudgetTest, TheNearestFitFits) {
  for (const std::vector<std::string>& command : commands()) {
    const Result refused = program_.run(with(command, {"--device-mem", "1MiB", "--host-mem", "1MiB"}));
    SCOPED_TRACE(refused.err);
    EXPECT_EQ(refused.exit_code, 4);
    std::smatch nearest;
    const std::regex pattern("nearest fit: --device-mem ([0-9]+)MiB --host-mem ([0-9]+)MiB");
    ASSERT_TRUE(std::regex_search(refused.err, nearest, pattern));
    const Result result =
        program_.run(with(command, {"--device-mem", nearest[1].str() + "MiB", "--host-mem", nearest[2].str() + "MiB"}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_LE(result.peak_bytes, (std::stoull(nearest[1]) + std::stoull(nearest[2])) * kMiB);
  }
}

// A context that nobody asked for is as long as the budgets allow, at the cost of weights that stream; a line says
// which one keeps them, and only where that is so.
TEST_F(BudgetTest, TheContextThatKeepsTheWeightsIsSaid) {
  const uint64_t all_kv = kv_ * 4096 / (kTokens + 50);  // of the model's whole context
  const std::string said = "leave no room for all weights";
  const std::regex pattern("context: ([0-9]+) positions leave no room .*; with -c ([0-9]+) all stay on the device\n");
  const std::vector<std::string> plan{"plan", "-m", model_, "-ub", "128"};
  const std::vector<std::string> chat{"chat", "-m", model_, "-ub", "128", "-p", "Hello", "-n", "2"};
  const auto budget = [](uint64_t bytes) { return std::vector<std::string>{"--device-mem", std::to_string(bytes)}; };
  // The whole context beside a half of the weights; a third of it, or the weights.
  for (const uint64_t bytes : {fixed_ + all_kv + weights_ / 2, fixed_ + weights_ + all_kv / 3}) {
    for (const std::vector<std::string>& command : {plan, chat}) {
      const Result long_one = program_.run(with(command, budget(bytes)));
      SCOPED_TRACE(command.front() + ": " + long_one.err);
      ASSERT_EQ(long_one.exit_code, 0);
      std::smatch match;
      ASSERT_TRUE(std::regex_search(long_one.err, match, pattern));
      EXPECT_GT(std::stoi(match[2]), 512);
      EXPECT_LT(std::stoi(match[2]), std::stoi(match[1]));
      const auto placed = [&](const std::string& context) {
        const Result result = program_.run(with(command, with(budget(bytes), {"-c", context})));
        EXPECT_EQ(result.exit_code, 0) << result.err;
        EXPECT_THAT(result.err, ::testing::Not(HasSubstr(said))) << "it was asked for";
        return result.err + result.out;
      };
      EXPECT_THAT(placed(match[2]), ::testing::Not(HasSubstr("streamed from disk")));
      EXPECT_THAT(placed(match[1]), HasSubstr("streamed from disk"));
    }
  }
  // All fits; and so little that no context keeps the weights.
  for (const uint64_t bytes : {fixed_ + all_kv + weights_ + 16 * kMiB, fixed_ + weights_ / 2}) {
    const Result result = program_.run(with(chat, budget(bytes)));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, ::testing::Not(HasSubstr(said)));
  }
}

}  // namespace
}  // namespace spillway
