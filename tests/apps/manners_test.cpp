// How the program takes a person's mishaps: interrupts and deaths, folders that are closed, flags that are wrong,
// weights that are broken.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "loader/checkpoint.h"
#include "tests/apps/program.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class Manners : public ::testing::Test {
 protected:
  Manners() { model_ = write_program_model(folder_); }

  Result run(std::vector<std::string> arguments) { return program_.run(std::move(arguments)); }

  // Root may enter every folder; without these capabilities it may not.
  Result run_without_rights(const std::vector<std::string>& arguments) {
    const pid_t child = fork();
    if (child == 0) {
      static_cast<void>(prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE));
      static_cast<void>(prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH));
      _exit(program_.run(arguments).exit_code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return {.exit_code = WEXITSTATUS(status), .out = read_file(folder_ / "out"), .err = read_file(folder_ / "err")};
  }

  std::string long_prompt() {
    std::string text;
    for (int i = 0; i < 1200; ++i) text += "spill " + std::to_string(i % 7) + " ";
    return program_.write("prompt.txt", text);
  }

  // A run that spills KV to `folder`.
  std::vector<std::string> spilling(const std::string& folder) {
    const Result plan = run({"plan", "-m", model_, "-c", "7200", "--json"});
    const auto device = nlohmann::json::parse(plan.out)["tiers"]["device"];
    const auto of = [&](const char* what) { return device[what].get<uint64_t>(); };
    const uint64_t budget = of("process") + of("workspace") + of("weights") + of("kv") / 2;
    return {
        "generate",   "-m",    model_,       "-f",  long_prompt(), "-n", "2", "--device-mem", std::to_string(budget),
        "--disk-mem", "64MiB", "--disk-dir", folder};
  }

  Program program_;
  const fs::path& folder_ = program_.folder();
  std::string model_;
};

// Whether a process has a file of this folder open, by whatever name.
bool has_open(pid_t process, const fs::path& folder) {
  std::error_code error;
  for (const auto& each : fs::directory_iterator("/proc/" + std::to_string(process) + "/fd", error)) {
    if (fs::read_symlink(each.path(), error).string().starts_with(folder.string() + "/")) return true;
  }
  return false;
}

TEST_F(Manners, NoDeathLeavesAHalfWrittenReport) {
  const fs::path kept = folder_ / "kept";
  fs::create_directories(kept);
  const int unnamed = ::open(kept.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (unnamed < 0) GTEST_SKIP() << "this file system has no files without a name";
  ::close(unnamed);
  const std::vector<std::vector<std::string>> commands{
      {"generate", "-p", "x", "-n", "100000", "--ignore-eos", "--trace", (kept / "trace.json").string()},
      {"score", "-f", long_prompt(), "-c", "64", "--logits", (kept / "logits.npy").string()}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"-m", model_, "--device", "reference"});
    for (const int signal : {SIGKILL, SIGTERM, SIGHUP}) {
      const pid_t child = program_.start(command);
      bool open = false;
      for (int i = 0; i < 2000 && !(open = has_open(child, kept)); ++i) usleep(5000);
      kill(child, signal);
      int status = 0;
      waitpid(child, &status, 0);
      EXPECT_TRUE(open) << read_file(folder_ / "err");
      EXPECT_TRUE(WIFSIGNALED(status)) << command.front() << " " << status;
      EXPECT_TRUE(fs::is_empty(kept)) << command.front() << " " << signal;
    }
  }
}

TEST_F(Manners, TheFirstInterruptEndsTheWaitForInput) {
  for (const std::string command : {"generate", "chat", "score"}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = program_.start({command, "-m", model_}, 60, ends[0]);
    ASSERT_EQ(::write(ends[1], "hello", 5), 5);
    int left = 5;  // taken: it waits for more
    for (int i = 0; i < 4000 && left > 0; ++i) {
      usleep(5000);
      ASSERT_EQ(::ioctl(ends[0], FIONREAD, &left), 0);
    }
    EXPECT_EQ(left, 0);
    kill(child, SIGINT);
    int status = 0;
    bool ended = false;
    for (int i = 0; i < 1000 && !(ended = waitpid(child, &status, WNOHANG) == child); ++i) usleep(5000);
    if (!ended) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
    }
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 130) << command << " " << status;
    EXPECT_THAT(read_file(folder_ / "err"), HasSubstr("spillway: interrupted\n"));
    ::close(ends[0]);
    ::close(ends[1]);
  }
}

TEST_F(Manners, AModelInAClosedFolderIsNamedWithTheReason) {
  const fs::path closed = folder_ / "closed";
  fs::create_directories(closed / "directory");
  std::ofstream(closed / "config.json") << "{}";
  const std::string model = write_program_model(closed);
  fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_write);
  for (const std::string& path : {model, (closed / "directory").string(), closed.string()}) {
    for (const std::string command : {"inspect", "plan", "generate"}) {
      const Result result = run_without_rights({command, "-m", path});
      EXPECT_EQ(result.exit_code, 3) << command << " " << path;
      EXPECT_THAT(result.err, ::testing::StartsWith("spillway: cannot open " + path));
      EXPECT_THAT(result.err, HasSubstr(": Permission denied\n"));
    }
  }
  fs::permissions(closed, fs::perms::owner_all);
}

TEST_F(Manners, ATemplateWithoutEndIsRefused) {
  const Result result = program_.run({"chat", "-m", model_, "-p", "hi", "--template", "/dev/zero"}, 30);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--template /dev/zero: more than 131072 bytes"));
}

// A flag's value, and so not the model's fault (3).
// And is said before the machine is measured, which would take a moment and a line.
TEST_F(Manners, ATemplateThatIsNotUnderstoodIsTheFlagsFault) {
  setenv("SPILLWAY_TEST_CACHE", (folder_ / "unmeasured").c_str(), 1);
  for (const auto& [source, what] :
       {std::pair{"\n{% if x", "a syntax error: {% is not closed by %}"},
        std::pair{"\n{{ messages | urlize }}", "the filter \"urlize\" is not known here"}}) {
    const std::string path = program_.write("broken.jinja", source);
    const Result result = run({"chat", "-m", model_, "-p", "hi", "--template", path});
    EXPECT_EQ(result.exit_code, 2) << source;
    EXPECT_THAT(result.err, ::testing::StartsWith("spillway: --template " + path + ", line 2: " + what)) << source;
  }
  unsetenv("SPILLWAY_TEST_CACHE");
}

TEST_F(Manners, AFlagIsOfferedWhereItDoesSomething) {
  const std::string plan = run({"plan", "--help"}).out;
  EXPECT_THAT(plan, Not(HasSubstr("--stats")));
  EXPECT_THAT(plan, Not(HasSubstr("--trace")));
  EXPECT_THAT(plan, HasSubstr("Hugging Face model directory"));
  EXPECT_EQ(run({"plan", "-m", model_, "--stats"}).exit_code, 2);
  EXPECT_THAT(run({"generate", "--help"}).out, HasSubstr("--stats"));
}

TEST_F(Manners, StatsOfScoreAndBenchAreWhole) {
  const std::vector<std::string> tight{"-m", model_, "--stats", "-c", "64"};
  const std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>> cases{
      {{"score", "-f", long_prompt(), "--chunks", "2"}, {"prefill  128 tokens in "}},
      {{"score", "-f", long_prompt(), "--chunks", "2", "--prefill", "40", "--json"},
       {"prefill  80 tokens in ", "decode   48 steps in "}},
      {{"bench", "-p", "16", "-n", "8", "-r", "3"}, {"prefill  48 tokens in ", "decode   24 steps in "}}};
  for (auto [arguments, words] : cases) {
    arguments.insert(arguments.end(), tight.begin(), tight.end());
    const Result result = run(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word)) << arguments.front();
    EXPECT_THAT(result.err, HasSubstr("peak     device "));
    EXPECT_THAT(result.err, Not(HasSubstr("first token after")));
  }
}

// Every byte of a streaming run has its time.
TEST_F(Manners, StatsOfScoreSayWhatStreams) {
  SKIP_UNDER_SANITIZERS();  // a process may take less than the one that planned, by more than the weights
  model_ = write_tiny_model({.layers = 12,
                             .hidden = 256,
                             .heads = 8,
                             .kv_heads = 4,
                             .head_dim = 32,
                             .ffn = 512,
                             .vocab = 640,
                             .type = DType::q8_0,
                             .name = "streamed"},
                            folder_.string());
  const Result plan = run({"plan", "-m", model_, "-c", "64", "--json"});
  const auto device = nlohmann::json::parse(plan.out)["tiers"]["device"];
  const auto of = [&](const char* what) { return device[what].get<uint64_t>(); };
  std::vector<std::string> command{"score", "-f", long_prompt(), "-c", "64", "--chunks", "2", "-m", model_, "--stats"};
  const uint64_t budget = of("process") + of("workspace") + of("kv") + of("weights") / 2;
  command.insert(command.end(), {"--device-mem", std::to_string(budget), "--host-mem", "256MiB"});
  const Result result = run(command);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, ::testing::ContainsRegex("host_to_device .*[0-9.]+ [kKMG]i?B +[0-9.]+ [kKMG]?B/s"));
}

TEST_F(Manners, AFolderThatTakesNoSpillIsNamedWithItsFlag) {
  const Result proc = run(spilling("/proc"));
  EXPECT_EQ(proc.exit_code, 5) << proc.err;
  EXPECT_THAT(proc.err, HasSubstr("in /proc"));
  EXPECT_THAT(proc.err, HasSubstr("--disk-dir"));
  EXPECT_THAT(proc.err, Not(HasSubstr("no such folder")));
  const Result file = run(spilling("/etc/passwd"));
  EXPECT_EQ(file.exit_code, 2) << file.err;
  EXPECT_THAT(file.err, HasSubstr("--disk-dir /etc/passwd: not a folder"));
}

TEST_F(Manners, OnlyAContextBeyondTheModelsIsWarnedOf) {
  const std::vector<std::string> chat{"chat", "-m", model_, "-p", "hi", "--temp", "0", "-n", "1000000", "-c"};
  const auto said = [&](const std::string& context) {
    std::vector<std::string> arguments = chat;
    arguments.push_back(context);
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.err;
  };
  EXPECT_THAT(said("64"), Not(HasSubstr("was trained for")));
  EXPECT_THAT(said("5000"), HasSubstr("was trained for 4096 positions"));
}

TEST_F(Manners, RefusalsNameWhatWasGiven) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.end(), {"-m", model_});
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, 2) << words << result.err;
    EXPECT_THAT(result.err, ::testing::StartsWith("spillway: " + words));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  refused({"generate", "-p", "x", "--stop", ""}, "--stop: an empty text");
  refused({"plan", "--parallel", "2"}, "--parallel: -c says");
  refused({"generate", "-p", "x", "--stop", "a", "--stop", ""}, "--stop: an empty text");
  refused({"generate", "-p", "x", "--stop", "a", "b"}, "not expected: b");
  refused({"generate", "-p", "x", "--stop=", "a"}, "--stop: no value after the =");
  refused({"generate", "-p", "x", "--top-k=", "3"}, "--top-k: no value after the =");
  refused({"generate", "-p", "x", "--top-k", "-3"}, "--top-k: -3 is less than 0");
  refused({"generate", "-p", "x", "--bogus", "1"}, "not expected: --bogus 1");
  refused({"plan", "--kv-select", "some"},
          "--kv-select: \"some\" is not one of all, rehearsal, infinigen, oracle, bounds");
  refused({"plan", "--rank", "16"}, "--rank means nothing where all of the KV is read (--kv-select, --kv-keep)");
  refused({"plan", "--kv-select", "oracle", "--rank", "16"}, "--rank: the oracle scores whole keys");
  refused({"plan", "--kv-select", "oracle", "--select-budget", "half"}, "--select-budget half: a number of tokens");
  refused({"plan", "--kv-select", "oracle", "--select-budget", "40"}, "--select-budget 40: at least 44 are wanted");
  refused({"plan", "--kv-keep", "some"}, "--kv-keep: \"some\" is not one of all, window, heavy");
  refused({"plan", "--kv-keep", "window", "--kv-select", "bounds"}, "--kv-keep window reads all of what it keeps");
  refused({"plan", "--kv-keep", "heavy", "--kv-select", "oracle"},
          "--kv-keep heavy goes by the attention that tokens have had");
  refused({"plan", "--kv-keep", "heavy", "--check-every", "4"}, "--check-every: what --kv-keep heavy has let go");
  refused({"plan", "--kv-keep", "window", "--select-alpha", "4"}, "--select-alpha: --kv-keep window keeps as many");
  refused({"plan", "--kv-select", "oracle", "--repair"}, "--repair: --kv-select oracle foretells nothing");
  refused({"plan", "--kv-keep", "window", "--rank", "16"}, "--rank: --kv-keep window scores no keys");
  refused({"plan", "--kv-keep", "window", "--exact"}, "--exact: --kv-keep window does not read all of the KV");
  refused({"plan", "--kv-select", "bounds", "--ahead", "2"}, "--ahead: --kv-select bounds goes by the true query");
  refused({"plan", "--kv-select", "bounds", "--key-bits", "8"}, "--key-bits: bounds are of whole keys");
  refused({"plan", "--kv-select", "bounds", "--kv-type", "kivi4"}, "--granule 16: packed pages (--kv-type kivi4) are");
  refused({"plan", "--kv-select", "bounds", "--granule", "64", "--select-budget", "100"},
          "--select-budget 100: by granules of 64, at least 192 are read");
  refused({"plan", "--kv-select", "oracle", "--exact"}, "--exact: --kv-select oracle does not read all of the KV");
  refused({"plan", "--kv-type", "fp32", "--kv-select", "oracle"},
          "--kv-select oracle: reads a part of KV that is kept in half precision or packed, and --kv-type fp32 keeps");
  refused({"plan", "--kv-type", "f32", "--kv-keep", "window"},
          "--kv-keep window: reads a part of KV that is kept in half precision");
  refused({"plan", "--kv-type", "bf16"}, "--kv-type: \"bf16\" is not one of fp16, fp32, kivi2, kivi4, q4, q8");
  refused({"plan", "--kv-type", "kivi4", "--exact"}, "--exact: --kv-type kivi4 rounds the KV");
  setenv("SPILLWAY_TEMP", "abc", 1);
  refused({"generate", "-p", "x"}, "SPILLWAY_TEMP: 'abc' is no");
  refused({"generate", "-p", "x", "--temp", "warm"}, "--temp: 'warm' is no");
  unsetenv("SPILLWAY_TEMP");
  setenv("SPILLWAY_DEVICE_MEM", "lots", 1);
  refused({"generate", "-p", "x"}, "SPILLWAY_DEVICE_MEM");
  refused({"generate", "-p", "x", "--device-mem", "much"}, "--device-mem");
  unsetenv("SPILLWAY_DEVICE_MEM");
}

TEST_F(Manners, WeightsThatGiveNoAnswerAreNamedByTheirFile) {
  const Extent extent = open_model(model_).require("output_norm.weight").extent;
  std::fstream file(model_, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(extent.offset));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (uint64_t i = 0; i < extent.bytes / sizeof nan; ++i) file.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  file.close();
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"generate", "-p", "x", "-n", "2"},
                                             {"chat", "-p", "x", "--template", "chatml"},
                                             {"score", "--tokens", "1,2,3"}}) {
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"-m", model_});
    const Result result = run(arguments);
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_THAT(result.err, HasSubstr("spillway: " + model_ + ": the log"));
    EXPECT_THAT(result.err, HasSubstr("give no answer"));
  }
}

}  // namespace
}  // namespace spillway
