// A plan written by one run and taken by another, through the built program: the same placement and the same text,
// flags that agree or are refused, and plans that no longer fit refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class GivenPlan : public ::testing::Test {
 protected:
  GivenPlan() {
    model_ = write_tiny_model({.layers = 3,
                               .hidden = 512,
                               .heads = 8,
                               .kv_heads = 4,
                               .head_dim = 64,
                               .ffn = 1536,
                               .vocab = 4096,
                               .type = DType::q8_0,
                               .seed = 9,
                               .name = "planned"},
                              program_.folder().string());
    plan_ = (program_.folder() / "plan.json").string();
  }
  Result run(const std::vector<std::string>& arguments) { return program_.run(arguments); }
  Result with_plan(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"-m", model_, "--plan", plan_});
    return run(arguments);
  }
  // A budget in which half of the weights stream.
  std::string tight() {
    const json plan = json::parse(run({"plan", "-m", model_, "-c", "256", "--json"}).out);
    const json& device = plan["tiers"]["device"];
    const auto of = [&](const char* what) { return device[what].get<uint64_t>(); };
    return std::to_string(of("process") + of("workspace") + of("kv") + of("weights") / 2 + (6 << 20));
  }
  void make(std::vector<std::string> flags) {
    std::vector<std::string> arguments{"plan", "-m", model_, "-o", plan_, "-c", "256"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Result made = run(arguments);
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }

  Program program_;
  std::string model_, plan_;
};

TEST_F(GivenPlan, TheSamePlacementAndTheSameText) {
  SKIP_UNDER_SANITIZERS();
  const std::string budget = tight();
  make({"--device-mem", budget, "--lookahead", "2"});
  const json written = json::parse(read_file(plan_));
  const std::vector<std::string> wanted{"generate", "-p", "one two three", "-n", "8", "--temp", "0", "--json"};
  const Result own = run({"generate", "-m", model_, "-p", "one two three", "-n", "8", "--temp", "0", "--json"});
  const Result first = with_plan(wanted), second = with_plan(wanted);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const json a = json::parse(first.out), b = json::parse(second.out);
  EXPECT_EQ(a["text"], json::parse(own.out)["text"]);
  EXPECT_EQ(a["plan"]["tensors"], b["plan"]["tensors"]);
  EXPECT_EQ(a["plan"]["tiers"]["device"]["budget"], written["budgets"]["device"]);
  EXPECT_EQ(a["plan"]["tiers"], b["plan"]["tiers"]);
  size_t streamed = 0, runs = 0;
  for (const json& tensor : a["plan"]["tensors"]) streamed += tensor["tier"] == "disk";
  for (const json& stretch : written["units"][0]["weight_tiers"]) {
    if (stretch[0] == "disk") runs += stretch[1].get<size_t>();
  }
  EXPECT_GT(streamed, 0u);
  EXPECT_EQ(streamed, runs);
  EXPECT_EQ(with_plan({"bench", "-p", "16", "-n", "4", "-r", "1"}).exit_code, 0);
  EXPECT_EQ(with_plan({"score", "--tokens", "1,2,3,4"}).exit_code, 0);
  EXPECT_EQ(with_plan({"plan"}).exit_code, 0);
  const Result chat = with_plan({"chat", "-p", "hello", "-n", "2", "--template", "chatml"});
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
}

TEST_F(GivenPlan, ChoosesAmongTheKvAsItWasMadeTo) {
  SKIP_UNDER_SANITIZERS();
  // Where nobody has calibrated yet.
  const std::string before = Program::cache();
  setenv("SPILLWAY_TEST_CACHE", (program_.folder() / "cache").c_str(), 1);
  std::string prompt;
  for (int i = 0; i < 60; ++i) prompt += "spill ";
  const std::vector<std::string> wanted{"generate", "-p", prompt, "-n", "8", "--temp", "0", "--json"};
  for (const char* selector : {"bounds", "rehearsal"}) {
    SCOPED_TRACE(selector);
    const std::vector<std::string> flags{"--kv-select", selector, "--select-budget", "64", "--granule", "4"};
    if (std::string(selector) == "rehearsal") {
      std::vector<std::string> early{"plan", "-m", model_, "-o", plan_, "-c", "256"};
      early.insert(early.end(), flags.begin(), flags.end());
      EXPECT_THAT(run(early).err, HasSubstr("spillway calibrate -c 256 makes it"));
      ASSERT_EQ(run({"calibrate", "-m", model_, "-c", "256"}).exit_code, 0);
    }
    make(flags);
    std::vector<std::string> plain = wanted;
    plain.insert(plain.end(), {"-m", model_, "-c", "256"});
    plain.insert(plain.end(), flags.begin(), flags.end());
    const Result unplanned = run(plain), result = with_plan(wanted);
    ASSERT_EQ(unplanned.exit_code, 0) << unplanned.err;
    const json own = json::parse(unplanned.out);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json planned = json::parse(result.out);
    EXPECT_EQ(planned["text"], own["text"]);
    EXPECT_EQ(planned["plan"]["selection"], own["plan"]["selection"]);
    EXPECT_EQ(planned["selection"]["tokens_read"], own["selection"]["tokens_read"]);
    EXPECT_GT(planned["selection"]["tokens_seen"], planned["selection"]["tokens_read"]);
    std::vector<std::string> other = wanted;
    other.insert(other.end(), {"--kv-select", selector, "--select-budget", "96", "--granule", "4"});
    EXPECT_THAT(with_plan(other).err, HasSubstr("with other numbers"));
  }
  setenv("SPILLWAY_TEST_CACHE", before.c_str(), 1);
}

TEST_F(GivenPlan, FlagsBesideItAgreeOrAreRefused) {
  SKIP_UNDER_SANITIZERS();
  const std::string budget = tight();
  make({"--device-mem", budget, "-ub", "64", "--kv-type", "q8", "--kv-edge-layers", "1"});
  const std::vector<std::string> same{"generate", "-p",  "one", "-n",        "2",  "--device-mem",     budget, "-c",
                                      "256",      "-ub", "64",  "--kv-type", "q8", "--kv-edge-layers", "1"};
  EXPECT_EQ(with_plan(same).exit_code, 0);
  const std::pair<std::vector<std::string>, std::string> refused[] = {
      {{"-ub", "32"}, "-ub: the plan"},         {{"--kv-type", "fp16"}, "--kv-type: the plan"},
      {{"--lookahead", "3"}, "--lookahead:"},   {{"-ngl", "1"}, "-ngl: the plan"},
      {{"--kv-edge-layers", "0"}, "--kv-edge"}, {{"--link-gbps", "3"}, "--link-gbps: the plan"},
      {{"-c", "512"}, "has 256 positions"},     {{"--host-mem", "64MiB"}, "--host-mem: the plan"}};
  for (const auto& [flags, what] : refused) {
    std::vector<std::string> arguments{"generate", "-p", "one", "-n", "2"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Result result = with_plan(arguments);
    EXPECT_EQ(result.exit_code, 2) << what;
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  const Result longer = with_plan({"generate", "-p", "one", "-n", "300"});
  EXPECT_EQ(longer.exit_code, 4);
  EXPECT_THAT(longer.err, HasSubstr("positions are needed, but the plan"));
}

TEST_F(GivenPlan, RefusedByNameWhereItNoLongerFits) {
  make({"--device-mem", tight()});
  const Result smaller = with_plan({"generate", "-p", "one", "-n", "2", "--device-mem", "20MiB"});
  EXPECT_EQ(smaller.exit_code, 4);
  EXPECT_THAT(smaller.err, HasSubstr("but --device-mem is 20 MiB"));

  const Result other_device = with_plan({"generate", "-p", "one", "-n", "2", "--device", "reference"});
  EXPECT_EQ(other_device.exit_code, 4);
  EXPECT_THAT(other_device.err, HasSubstr("it was made for"));

  const std::string first = model_;
  model_ = write_tiny_model({.layers = 2, .seed = 10, .name = "other"}, program_.folder().string());
  const Result other_model = with_plan({"generate", "-p", "one", "-n", "2"});
  EXPECT_EQ(other_model.exit_code, 4);
  EXPECT_THAT(other_model.err, HasSubstr("it was made for the model planned"));

  // A budget of the file's own that no machine has left.
  json plan = json::parse(read_file(plan_));
  model_ = first;
  plan["units"][0]["weight_ring_bytes"] = uint64_t{1} << 49;
  plan["units"][0]["weight_tiers"] =
      json::array({json::array({"disk", json::parse(read_file(plan_))["units"][0]["weight_tiers"].size()})});
  plan["budgets"]["device"] = uint64_t{1} << 50;
  program_.write("plan.json", plan.dump());
  const Result beyond = with_plan({"generate", "-p", "one", "-n", "2"});
  EXPECT_EQ(beyond.exit_code, 4) << beyond.err;

  program_.write("plan.json", "{}");
  const Result none = with_plan({"generate", "-p", "one", "-n", "2"});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.err, HasSubstr("not a plan"));
}

}  // namespace
}  // namespace spillway
