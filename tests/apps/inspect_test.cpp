// `inspect` and `doctor`, as a person meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "apps/inspection.h"
#include "apps/terminal_text.h"
#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Inspect : public ::testing::Test {
 protected:
  Inspect()
      : model_(write_tiny_model({.layers = 2,
                                 .hidden = 64,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 32,
                                 .ffn = 128,
                                 .vocab = 640,
                                 .type = DType::q4_0,
                                 .name = "seen"},
                                program_.folder().string())) {}
  Program program_;
  std::string model_;
};

TEST_F(Inspect, SaysWhatIsInAFile) {
  const Result short_form = program_.run({"inspect", model_});
  ASSERT_EQ(short_form.exit_code, 0) << short_form.err;
  EXPECT_THAT(short_form.out, HasSubstr("family       llama"));
  EXPECT_THAT(short_form.out, HasSubstr("2 layers, width 64, 4 heads of 32, 2 KV heads, feed-forward 128"));
  EXPECT_THAT(short_form.out, HasSubstr("Q4_0"));
  EXPECT_THAT(short_form.out, HasSubstr("general.architecture = llama"));
  EXPECT_THAT(short_form.out, Not(HasSubstr("blk.1.attn_q.weight")));
  EXPECT_THAT(program_.run({"inspect", "-m", model_, "-v"}).out, HasSubstr("blk.1.attn_q.weight"));
}

TEST_F(Inspect, JsonHoldsTheFactsOfEveryTensor) {
  const Result result = program_.run({"inspect", model_, "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["shape"]["layers"], 2);
  EXPECT_EQ(json["shape"]["kv_bytes_per_position"], 2 * 2 * 2 * 32 * 2);
  EXPECT_EQ(json["problems"].size(), 0u) << json["problems"];
  uint64_t by_tensor = 0, by_type = 0;
  for (const auto& tensor : json["tensors"]) by_tensor += tensor["bytes"].get<uint64_t>();
  for (const auto& [type, total] : json["types"].items()) by_type += total["bytes"].get<uint64_t>();
  EXPECT_EQ(by_tensor, json["weight_bytes"]);
  EXPECT_EQ(by_type, json["weight_bytes"]);
  EXPECT_EQ(json["files"].size(), 1u);
  EXPECT_TRUE(json["metadata"]["tokenizer.ggml.tokens"].contains("length"));
}

TEST_F(Inspect, AFamilyThatCannotBeRunIsStillShown) {
  std::string bytes = read_file(model_);
  const std::string key = "general.architecture";
  const size_t at = bytes.find(key) + key.size() + 4 + 8;  // the value's type and length
  ASSERT_EQ(bytes.substr(at, 5), "llama");
  const Result result = program_.run({"inspect", program_.write("other.gguf", bytes.replace(at, 5, "mamba"))});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("mamba (cannot be run)"));
  EXPECT_THAT(result.out, HasSubstr("problem"));
}

TEST_F(Inspect, WhatOfTheFilesIsIgnoredIsSaid) {
  namespace fs = std::filesystem;
  const fs::path folder = program_.folder() / "biased";
  fs::copy(fs::path(SPILLWAY_TEST_DATA).parent_path().parent_path() / "runtime/data/hf/qwen2", folder);
  auto config = nlohmann::json::parse(read_file(folder / "config.json"));
  config["model_type"] = "llama";  // which has no biases unless its config says so
  program_.write("biased/config.json", config.dump());
  const auto json = nlohmann::json::parse(program_.run({"inspect", folder.string(), "--json"}).out);
  ASSERT_EQ(json["remarks"].size(), 1u);
  const std::string remark = json["remarks"][0];
  EXPECT_THAT(remark, HasSubstr("biases of the files not asked for, and ignored"));
  EXPECT_THAT(program_.run({"inspect", folder.string()}).out, HasSubstr("remark       " + remark));
  const Result run = program_.run({"score", "-m", folder.string(), "--tokens", "1,2,3"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr(remark + "\n"));
}

TEST_F(Inspect, WhatIsNoModelIsRefused) {
  const Result result = program_.run({"inspect", program_.write("text.gguf", "no model at all")});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("text.gguf"));
  EXPECT_EQ(program_.run({"inspect", (program_.folder() / "none").string()}).exit_code, 3);
}

TEST_F(Inspect, TextsOfAFileMoveNoCursor) {
  EXPECT_EQ(terminal_text("a\x1b[2J\n\tb\x7f"), "a\\x1b[2J\\n\\tb\\x7f");
  EXPECT_EQ(terminal_text("\xc2\x9b"
                          "31m \xc3\xa4 \xff"),
            "\\x9b"
            "31m \xc3\xa4 \xef\xbf\xbd");
  EXPECT_EQ(clip_text("a\xc3\xa4", 2), "a");
  EXPECT_EQ(clip_text("ab", 2), "ab");
}

TEST_F(Inspect, DoctorSaysWhatIsBrokenByItsExitCode) {
  const std::string folder = program_.folder().string();
  const Result whole = program_.run({"doctor", "-m", model_, "--disk-dir", folder, "--json"});
  const auto json = nlohmann::json::parse(whole.out);
  EXPECT_EQ(whole.exit_code, json["broken"] == 0 ? 0 : 5) << whole.out;
  for (const auto& finding : json["findings"]) {
    EXPECT_EQ(finding["health"] == "ok", finding["mend"] == "") << finding;
  }
  const Result broken = program_.run({"doctor", "-m", folder + "/none.gguf", "--disk-dir", folder + "/nowhere"});
  EXPECT_EQ(broken.exit_code, 5);
  EXPECT_THAT(broken.out, HasSubstr("broken  model"));
  EXPECT_THAT(broken.out, HasSubstr("-> "));
}

TEST_F(Inspect, DoctorLeavesNothingBehind) {
  namespace fs = std::filesystem;
  const fs::path home = program_.folder() / "home";
  const auto examine = [&] {
    setenv("SPILLWAY_TEST_CACHE", (home / "cache").c_str(), 1);
    const Result result = program_.run({"doctor", "--json"});
    unsetenv("SPILLWAY_TEST_CACHE");
    return nlohmann::json::parse(result.out);
  };
  const auto of = [](const nlohmann::json& report, const std::string& name) {
    for (const auto& finding : report["findings"]) {
      if (finding["name"] == name) return finding;
    }
    return nlohmann::json();
  };
  EXPECT_THAT(
      of(examine(), "spill folder")["found"].get<std::string>(),
      HasSubstr((home / "cache/spillway").string() + ": a run makes it; " + program_.folder().string() + " is"));
  EXPECT_FALSE(fs::exists(home));
  fs::create_directories(home / "cache/spillway");
  const auto there = examine();
  EXPECT_TRUE(of(there, "spill folder").is_null()) << there;
  EXPECT_THAT(of(there, "writes")["found"].get<std::string>(), HasSubstr((home / "cache/spillway").string()));
  EXPECT_TRUE(fs::is_empty(home / "cache/spillway"));
  fs::remove_all(home / "cache");
  program_.write("home/cache", "no folder");
  EXPECT_EQ(of(examine(), "spill folder")["health"], "broken");
}

}  // namespace
}  // namespace spillway
