// The files of a batch as a person meets them: none is written over, and another input or another flag is another job.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "apps/batch/job_record.h"
#include "kernels/check.h"
#include "tests/apps/batch.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(Batch, FilesThatCannotBeAreRefused) {
  program_.write("in.jsonl", numbered(2, 4));
  const auto code = [&](const std::vector<std::string>& words, const std::string& said) {
    const Result result = run(words);
    EXPECT_THAT(result.err, HasSubstr(said));
    return result.exit_code;
  };
  EXPECT_EQ(code({"batch", "-m", model_}, "-i: a file is wanted"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", in()}, "-o: a file is wanted"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", out("none"), "-o", out()}, "No such file"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", "/dev/null", "-o", out()}, "a file is wanted"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", in(), "-o", folder_.string()}, "is a directory"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", in(), "-o", in()}, "the same file"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", in(), "-o", out("no/folder")}, "No such file"), 2);
  EXPECT_EQ(code(command({"--shard", "0/2"}), "1/N to N/N"), 2);
  EXPECT_EQ(code({"batch", "merge", out()}, "PARTS"), 2);
  EXPECT_EQ(code(command({"--plan", in()}), "draws up its own"), 2);
  EXPECT_EQ(code({"batch", "-m", model_, "-i", in(), "-o", "/dev/null"}, "-o /dev/null: a file is wanted"), 2);
  EXPECT_FALSE(fs::exists("/dev/null.journal"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Batch, NoFileOfTheUsersIsWrittenOver) {
  const std::string requests = numbered(2, 4);
  const auto refused = [&](const std::string& input, const std::vector<std::string>& more, const std::string& said) {
    program_.write(input, requests);
    std::vector<std::string> words{"batch", "-m", model_, "-i", out(input), "-o", out("q")};
    words.insert(words.end(), more.begin(), more.end());
    const Result result = run(words);
    EXPECT_EQ(result.exit_code, 2) << said;
    EXPECT_THAT(result.err, HasSubstr(said));
    EXPECT_EQ(read_file(out(input)), requests);
    EXPECT_FALSE(fs::exists(out("q")));
    fs::remove(out(input));
  };
  refused("q.journal", {}, "-o writes this file beside its own");
  refused("in.jsonl", {"--trace", out("q")}, "--trace and -o are the same file");
  refused("in.jsonl", {"--trace", out("q.journal")}, "-o writes this file beside its own");
  refused("in.jsonl", {"--trace", in()}, "-i and --trace are the same file");
  refused("in.jsonl", {"--trace", model_}, "-m and --trace are the same file");
  program_.write("q.journal", "diary\n");
  refused("in.jsonl", {}, "lies where the record of -o");
  EXPECT_EQ(read_file(out("q.journal")), "diary\n");
  program_.write("r.tmp", requests);
  EXPECT_EQ(run({"batch", "-m", model_, "-i", out("r.tmp"), "-o", out("r")}).exit_code, 0);
  EXPECT_EQ(read_file(out("r.tmp")), requests);
}

TEST_F(Batch, ALinkToTheOutputStaysOne) {
  program_.write("in.jsonl", numbered(6, 8));
  fs::create_directory(out("folder"));
  fs::create_symlink("folder/real", out("link"));
  const Result result = run(command({"--ordered", "--np", "6"}, "link"));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(fs::is_symlink(out("link")));
  EXPECT_EQ(answers(out("folder/real")).size(), 6u);
  const JobRecord held = JobRecord::open_existing(out("folder/real"));
  EXPECT_THAT(run(command({}, "link")).err, HasSubstr("another run is writing it")) << "by whichever name";
}

TEST_F(Batch, AnotherRunOnTheSameOutputIsRefused) {
  program_.write("in.jsonl", numbered(3, 4));
  ASSERT_EQ(run(command()).exit_code, 0);
  const JobRecord held = JobRecord::open_existing(out());
  const Result second = run(command());
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_THAT(second.err, HasSubstr("another run is writing it"));
}

TEST_F(Batch, AChangedInputIsRefusedAndDoneWorkIsNotDoneAgain) {
  program_.write("in.jsonl", numbered(3, 4));
  ASSERT_EQ(run(command()).exit_code, 0);
  const std::string before = read_file(out());
  const Result again = run(command());
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.err, HasSubstr("3 of 3 requests are answered (3 by earlier runs)"));
  EXPECT_THAT(again.err, Not(HasSubstr("weights:"))) << "nothing is loaded for nothing";
  program_.write("in.jsonl", numbered(4, 4));
  const Result changed = run(command());
  EXPECT_EQ(changed.exit_code, 2);
  EXPECT_THAT(changed.err, HasSubstr("it has changed since"));
  EXPECT_EQ(read_file(out()), before);
}

TEST_F(Batch, AnInputThatGrowsIsRefusedAndNothingIsAnsweredThatWasNotThere) {
  program_.write("in.jsonl", numbered(4000, 64));
  const pid_t child = start(command());
  for (int i = 0; i < 1000 && !(fs::exists(out()) && fs::file_size(out()) > 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  {
    std::ofstream more(in(), std::ios::app);
    for (int i = 0; i < 20000; ++i) more << request("more" + std::to_string(i), {{"prompt", "x"}, {"max_tokens", 1}});
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 2);
  EXPECT_THAT(read_file(folder_ / "err"), HasSubstr("it changed while it was read"));
  for (const auto& [name, text] : answers(out())) EXPECT_TRUE(name.starts_with("r")) << name;
}

TEST_F(Batch, AnotherWayOfChoosingAmongTheKvIsAnotherJob) {
  program_.write("in.jsonl", numbered(2, 4));
  ASSERT_EQ(run(command()).exit_code, 0);
  const Result keeping = run(command({"--kv-keep", "window"}));
  EXPECT_EQ(keeping.exit_code, 2);
  EXPECT_THAT(keeping.err, HasSubstr("--kv-keep: it was all, and is window"));
  EXPECT_EQ(run(command({"-c", "0", "--np", "1"})).exit_code, 0) << "as if it were not given";
}

TEST_F(Batch, AnotherSkewInTheCacheIsAnotherJob) {
  program_.write("in.jsonl", numbered(4, 4));
  const std::vector<std::string> more{"--kv-select", "rehearsal", "-c", "256"};
  const Result first = run(command(more));
  ASSERT_EQ(first.exit_code, 0) << first.err;
  auto record = nlohmann::ordered_json::parse(read_file(JobRecord::name(out())));
  ASSERT_EQ(record["found"].size(), 3u) << record;
  const std::string whole = read_file(out());
  const auto run_torn = [&] {
    program_.write("out.jsonl", whole.substr(0, whole.size() - 5));
    return run(command(more));
  };
  EXPECT_EQ(run_torn().exit_code, 0);
  record["found"]["skew of the rehearsal"] = "another";
  program_.write("out.jsonl.journal", record.dump());
  const Result other = run_torn();
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.err, HasSubstr("skew of the rehearsal: it was another, and is "));
}

}  // namespace
}  // namespace spillway
