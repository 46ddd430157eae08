// spillway batch as a person meets it: files in and out, deaths, full drives, shards.
#include "tests/apps/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "apps/batch/job_record.h"
#include "kernels/check.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(Batch, AnswersAreGeneratesAndFaultsAreLines) {
  program_.write("in.jsonl",
                 request("greedy", {{"prompt", "hello"}, {"max_tokens", 9}, {"temperature", 0}, {"logprobs", 2}}) +
                     request("chat",
                             {{"messages", {{{"role", "user"}, {"content", "hello"}}}},
                              {"max_tokens", 3},
                              {"temperature", 0},
                              {"logprobs", true},
                              {"top_logprobs", 1}},
                             "/v1/chat/completions") +
                     "{\n\n" + request("greedy", {{"prompt", "x"}}) + request("long", {{"prompt", "y"}, {"n", 2}}) +
                     "\xff\n" + request("short", {{"prompt", "hello"}, {"temperature", 0}}));
  const Result result = run(command({"--template", "chatml", "--json", "--stats"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("7 of 7 requests are answered, 4 of them with an error"));
  EXPECT_THAT(result.err, HasSubstr("waited"));
  const auto found = answers(out());
  const auto text = [&](const std::vector<std::string>& words) {
    std::vector<std::string> all{"generate", "-m", model_, "-p", "hello", "--temp", "0", "--json", "-n"};
    all.insert(all.end(), words.begin(), words.end());
    return json::parse(run(all).out)["text"].get<std::string>();
  };
  EXPECT_EQ(found.at("greedy"), text({"9"}));
  EXPECT_EQ(found.at("short"), text({"16"})) << "OpenAI's default";
  EXPECT_EQ(found.at("line 3"), "invalid_json");
  EXPECT_EQ(found.at("line 7"), "invalid_json");
  EXPECT_EQ(found.at("long"), "unsupported");
  EXPECT_EQ(found.at("line 5"), "duplicate_custom_id");
  const json report = json::parse(result.out);
  for (const char* key : {"requests", "answered", "answered_before", "errors", "tokens_in", "tokens_out", "seconds",
                          "tokens_per_second", "waited_s", "held_back", "bytes", "peak", "plan", "timings"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report["errors"], 4);
  for (const char* what : {"input", "output"}) EXPECT_TRUE(report["waited_s"][what].is_number());
  EXPECT_TRUE(report["waited_s"]["compute"]["disk_read"]["weights"].is_number());
}

// Names and all: whoever reads the object of each run finds the same in it.
TEST_F(Batch, AFinishedJobSaysSoInTheSameObject) {
  program_.write("in.jsonl", numbered(3, 6));
  const Result first = run(command({"--json"})), again = run(command({"--json", "--stats"}));
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("nothing was left to compute"));
  const json before = json::parse(first.out), report = json::parse(again.out);
  std::vector<std::string> names, names_before;
  for (const auto& [name, value] : report.items()) names.push_back(name);
  for (const auto& [name, value] : before.items()) names_before.push_back(name);
  EXPECT_EQ(names, names_before);
  EXPECT_TRUE(report["plan"].is_null());
  EXPECT_TRUE(report["waited_s"]["compute"].is_null());
  EXPECT_EQ(report["answered_before"], 3);
  EXPECT_EQ(report["passes"], 0);
}

// Room is kept for all that a request may take: the long one needs every page, and waits until nobody else runs.
TEST_F(Batch, WhatHoldsRequestsBackIsSaid) {
  std::string text;
  for (int i = 0; i < 6; ++i) {
    text += request("r" + std::to_string(i), {{"prompt", "spill"}, {"max_tokens", 8 + i}, {"temperature", 0}});
  }
  text += request("long", {{"prompt", "spill"}, {"max_tokens", 500}, {"temperature", 0}});
  program_.write("in.jsonl", text);
  const Result result = run(command({"--json", "--stats", "--np", "2", "--ignore-eos"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("held back"));
  const json report = json::parse(result.out);
  const int pages = report["held_back"]["pages"], places = report["held_back"]["places"];
  EXPECT_GT(pages, 0) << "where the other one of two has ended";
  EXPECT_GT(places, 0) << "while two run";
  EXPECT_LT(pages + places, report["passes"]) << "nobody waits for the last one";
}

// Chats without max_tokens begin with room for what is expected, and make room for older ones as these grow.
TEST_F(Batch, ChatsWithoutMaxTokensArePutBackAndSaid) {
  std::string text;
  for (int i = 0; i < 5; ++i) {
    text += request("r" + std::to_string(i),
                    {{"messages", {{{"role", "user"}, {"content", "spill " + std::to_string(i)}}}},
                     {"seed", i},
                     {"ignore_eos", true}},
                    "/v1/chat/completions");
  }
  program_.write("in.jsonl", text);
  const auto answer = [&](std::vector<std::string> words, const char* name) {
    words.insert(words.end(), {"--template", "chatml", "-c", "1536", "--json", "--stats"});
    const Result result = run(command(words, name));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result;
  };
  // Of 4 requests 36 pages are expected, and 96 the most: here are about 50.
  const Result tight = answer({"--np", "4", "--kv-device-mem", "2600000"}, "tight");
  const json report = json::parse(tight.out);
  EXPECT_GT(report["put_back"], 0);
  EXPECT_GT(report["tokens_recomputed"], 0);
  EXPECT_EQ(report["most_sequences"], 4);
  EXPECT_THAT(tight.err, HasSubstr("5 requests say no max_tokens: each gets room as it grows"));
  EXPECT_THAT(tight.err, HasSubstr("put back         " + report["put_back"].dump() + " times"));
  const Result ample = answer({"--np", "4"}, "ample");
  EXPECT_EQ(json::parse(ample.out)["put_back"], 0) << "memory to spare is room";
  EXPECT_THAT(ample.err, Not(HasSubstr("max_tokens")));
  EXPECT_THAT(ample.err, Not(HasSubstr("put back")));
  EXPECT_EQ(answers(out("tight")), answers(out("ample")));
  const Result packed = answer({"--kv-type", "kivi4", "--kv-edge-layers", "0", "--kv-device-mem", "1500000"}, "packed");
  EXPECT_EQ(json::parse(packed.out)["put_back"], 0);
  EXPECT_THAT(packed.err,
              HasSubstr("room for 1536 positions is kept for each of them while it runs, for with --kv-type "
                        "kivi4 it cannot be given up"));
}

TEST_F(Batch, LinesHaveOpenAisForm) {
  program_.write(
      "in.jsonl",
      request("c", {{"prompt", "hello"}, {"model", "m"}, {"max_tokens", 4}, {"temperature", 0}, {"logprobs", 2}}) +
          request("h",
                  {{"messages", {{{"role", "user"}, {"content", "hello"}}}},
                   {"max_tokens", 3},
                   {"temperature", 0},
                   {"logprobs", true},
                   {"top_logprobs", 1}},
                  "/v1/chat/completions"));
  const Result result = run(command({"--template", "chatml", "--ordered"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::vector<json> lines = lines_of(out());
  ASSERT_EQ(lines.size(), 2u);
  for (const json& line : lines) {
    EXPECT_TRUE(line["error"].is_null());
    EXPECT_EQ(line["response"]["status_code"], 200);
    const json& body = line["response"]["body"];
    EXPECT_EQ(body["usage"]["total_tokens"].get<int>(),
              body["usage"]["prompt_tokens"].get<int>() + body["usage"]["completion_tokens"].get<int>());
    EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  }
  const json& completion = lines[0]["response"]["body"];
  EXPECT_EQ(completion["model"], "m");
  EXPECT_EQ(completion["object"], "text_completion");
  const json& columns = completion["choices"][0]["logprobs"];
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(columns[key].size(), 4u) << key;
  }
  EXPECT_EQ(columns["top_logprobs"][0].size(), 2u);
  const json& chat = lines[1]["response"]["body"];
  EXPECT_EQ(chat["object"], "chat.completion");
  EXPECT_EQ(chat["choices"][0]["message"]["role"], "assistant");
  const json& tokens = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(tokens.size(), 3u);
  EXPECT_LE(tokens[0]["logprob"].get<double>(), 0);
  EXPECT_EQ(tokens[0]["top_logprobs"][0]["token"], tokens[0]["token"]) << "greedy takes the likeliest";
}

TEST_F(Batch, SeedsFollowFromNamesAndNotFromOrder) {
  const json body{{"prompt", "hello"}, {"max_tokens", 12}};
  program_.write("in.jsonl", request("a", body) + request("b", body) + request("c", body));
  ASSERT_EQ(run(command()).exit_code, 0);
  const auto first = answers(out());
  EXPECT_NE(first.at("a"), first.at("b"));
  program_.write("in.jsonl", request("c", body) + request("a", body));
  ASSERT_EQ(run(command({}, "other")).exit_code, 0);
  EXPECT_EQ(answers(out("other")).at("a"), first.at("a"));
  ASSERT_EQ(run(command({"-s", "5"}, "seeded")).exit_code, 0);
  EXPECT_NE(answers(out("seeded")).at("a"), first.at("a"));
}

TEST_F(Batch, PromptsOverTheContextAreErrorsOfTheirLine) {
  std::string words;
  for (int i = 0; i < 300; ++i) words += "spill ";
  program_.write("in.jsonl",
                 request("long", {{"prompt", words}}) + request("short", {{"prompt", "hello"}, {"max_tokens", 500}}));
  const Result result = run(command({"-c", "64"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(answers(out()).at("long"), "context_length_exceeded");
  const std::vector<json> lines = lines_of(out());
  const json& usage = lines.back()["custom_id"] == "short" ? lines.back()["response"]["body"]["usage"]
                                                           : lines.front()["response"]["body"]["usage"];
  EXPECT_LE(usage["total_tokens"], 65) << "the context ends it";
}

// No line gets an error, and no answer ends early, for the sake of a budget: the job is refused with the nearest fit,
// and a context that was asked for is what ends answers.
TEST_F(Batch, ABudgetTooSmallForTheLongestRequestIsRefused) {
  SKIP_UNDER_SANITIZERS();
  TinyModelOptions shape = program_model();
  shape.context = 65536;
  shape.name = "long";
  model_ = write_tiny_model(shape, folder_.string());
  program_.write("in.jsonl", request("short", {{"prompt", "hello"}, {"max_tokens", 4}}) +
                                 request("long", {{"prompt", "spill"}, {"max_tokens", 60000}, {"ignore_eos", true}}));
  const auto device = json::parse(run({"plan", "-m", model_, "-c", "64", "--json"}).out)["tiers"]["device"];
  const uint64_t least = device["process"].get<uint64_t>() + device["workspace"].get<uint64_t>() +
                         device["weights"].get<uint64_t>() + device["kv"].get<uint64_t>();
  const std::string budget = std::to_string(least + (12 << 20));  // 60000 positions take 44 MiB
  const Result refused = run(command({"--device-mem", budget}));
  EXPECT_EQ(refused.exit_code, 4) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("nearest fit"));
  EXPECT_TRUE(read_file(out()).empty()) << "nothing is answered";
  const Result asked = run(command({"-c", "64", "--device-mem", budget}, "asked"));
  ASSERT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_EQ(lines_of(out("asked")).size(), 2u);
}

// Of as many positions as one request may take, however many share the context.
TEST_F(Batch, ARehearsalIsCalibratedForOneRequest) {
  SKIP_UNDER_SANITIZERS();
  const std::string before = Program::cache();
  setenv("SPILLWAY_TEST_CACHE", (folder_ / "cache").c_str(), 1);
  std::string text;
  for (int i = 0; i < 8; ++i) {
    text += request("r" + std::to_string(i), {{"prompt", "spill"}, {"max_tokens", 190}, {"ignore_eos", true}});
  }
  program_.write("in.jsonl", text);
  const Result result = run(command({"--np", "8", "--kv-select", "rehearsal", "--select-budget", "64"}));
  setenv("SPILLWAY_TEST_CACHE", before.c_str(), 1);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const size_t windows = result.err.find("in windows of ");
  ASSERT_NE(windows, std::string::npos) << result.err;
  EXPECT_LE(std::stoi(result.err.substr(windows + 14)), 256) << result.err;
}

TEST_F(Batch, ShardsAreDisjointAndMergeToTheWhole) {
  program_.write("in.jsonl", numbered(10, 6) + "{\n");
  ASSERT_EQ(run(command({"--ordered"})).exit_code, 0);
  for (const char* shard : {"1/3", "2/3", "3/3"}) {
    ASSERT_EQ(run(command({"--shard", shard}, std::string("part") + shard[0])).exit_code, 0);
  }
  const Result early = run({"batch", "merge", out("all"), out("part1"), out("part3")});
  EXPECT_EQ(early.exit_code, 2);
  EXPECT_THAT(early.err, HasSubstr("no output of shard 2/3"));
  const Result merged = run({"batch", "merge", out("all"), out("part3"), out("part1"), out("part2")});
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_THAT(merged.err, HasSubstr("11 results, 1 of them errors"));
  const std::vector<json> all = lines_of(out("all")), whole = lines_of(out());
  ASSERT_EQ(all.size(), whole.size());
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i]["id"], whole[i]["id"]) << "the order of the input";
  EXPECT_EQ(answers(out("all")), answers(out()));
}

TEST_F(Batch, CtrlCStopsAndTheSameCommandGoesOn) {
  program_.write("in.jsonl", numbered(4000, 64));
  const pid_t child = start(command());
  for (int i = 0; i < 1000 && !(fs::exists(out()) && fs::file_size(out()) > 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(child, SIGINT);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_THAT(read_file(folder_ / "err"), HasSubstr("goes on from here"));
  const size_t done = answers(out()).size();
  EXPECT_GT(done, 0u);
  EXPECT_LT(done, 4000u);
}

TEST_F(Batch, AFullDriveStopsCleanlyAndIsGoneOnFrom) {
  SKIP_UNDER_SANITIZERS();
  program_.write("in.jsonl", numbered(20, 8));
  const auto full = run_faulty({faults::parse_fault("pwrite64=ENOSPC,path=out.jsonl,after=6")}, command());
  if (!full.ran) GTEST_SKIP() << "this machine allows no system call filters";
  EXPECT_EQ(full.exit_code, 5) << full.output;
  EXPECT_THAT(full.output, HasSubstr("No space left on device"));
  EXPECT_THAT(full.output, HasSubstr("the same command goes on"));
  EXPECT_EQ(answers(out()).size(), 5u) << "one of the six was the record";
  ASSERT_EQ(run(command()).exit_code, 0);
  EXPECT_EQ(answers(out()).size(), 20u);
}

// Of a command line of the shell, in the test's folder, with what the program needs around it. Returns its exit code.
class BatchByOthers : public Batch {
 protected:
  int shell(const std::string& words) const {
    const std::string script = fs::path(SPILLWAY_TEST_DATA).parent_path().parent_path().parent_path() / "scripts";
    const std::string environment = "cd " + folder_.string() + "; export XDG_CACHE_HOME=" + Program::cache() +
                                    " PATH=" + folder_.string() + "/bin:$PATH SPILLWAY=" + SPILLWAY_PROGRAM +
                                    " MODEL=" + model_ + " SCRIPT=" + script + "/batch-slurm.sh; ";
    const int status =
        std::system(("bash -c '" + environment + words + "' >" + folder_.string() + "/log 2>&1").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // What stands for a program of Slurm's: keeps its words.
  void stand_in(const std::string& name) const {
    fs::create_directories(folder_ / "bin");
    program_.write("bin/" + name, "#!/bin/sh\necho \"$@\" >>" + folder_.string() + "/" + name + ".words\n");
    fs::permissions(folder_ / "bin" / name, fs::perms::owner_all);
  }
};

TEST_F(BatchByOthers, GnuParallelRunsTheShards) {
  if (shell("command -v parallel") != 0) GTEST_SKIP() << "GNU parallel is not installed";
  program_.write("in.jsonl", numbered(12, 6));
  ASSERT_EQ(run(command({"--ordered"})).exit_code, 0);
  ASSERT_EQ(shell("parallel -j 2 --halt soon,fail=1 $SPILLWAY batch -m $MODEL -i in.jsonl -o all.jsonl.{}-of-3 --shard "
                  "{}/3 --deterministic --device-mem 512MiB ::: 1 2 3 && "
                  "$SPILLWAY batch merge all.jsonl all.jsonl.*-of-3"),
            0)
      << read_file(folder_ / "log");
  EXPECT_EQ(answers(out("all.jsonl")), answers(out()));
}

TEST_F(BatchByOthers, AnArrayTaskOfSlurmRunsItsShard) {
  program_.write("in.jsonl", numbered(9, 6));
  ASSERT_EQ(shell("SLURM_JOB_ID=7 SLURM_ARRAY_TASK_ID=2 SLURM_CPUS_PER_TASK=1 bash $SCRIPT 2 $MODEL in.jsonl out.jsonl "
                  "--deterministic"),
            0);
  EXPECT_EQ(answers(out("out.jsonl.2-of-2")).size(), 4u);
  EXPECT_NE(shell("SLURM_ARRAY_TASK_ID=3 bash $SCRIPT 2 $MODEL in.jsonl out.jsonl"), 0) << "there are two shards";
  EXPECT_EQ(shell("bash $SCRIPT 2 $MODEL in.jsonl out.jsonl"), 2) << "outside of an array";
}

TEST_F(BatchByOthers, AnArrayTaskWhoseTimeIsOverAsksForTheQueueAgain) {
  program_.write("in.jsonl", numbered(8000, 64));
  stand_in("scontrol");
  shell(
      "export SLURM_JOB_ID=7 SLURM_ARRAY_TASK_ID=1; bash $SCRIPT 2 $MODEL in.jsonl out.jsonl & task=$!; "
      "for i in $(seq 400); do [ -s out.jsonl.1-of-2 ] && break; sleep 0.05; done; kill -USR1 $task; wait $task");
  EXPECT_EQ(read_file(folder_ / "scontrol.words"), "requeue 7\n");
  const size_t done = answers(out("out.jsonl.1-of-2")).size();
  EXPECT_GT(done, 0u);
  EXPECT_LT(done, 4000u);
}

// Kills it at random moments, the more of them the better: what was written stays, as it was; at the end every request
// has one answer, the one that an undisturbed run gives.
TEST_F(Batch, NothingIsLostOrDoneTwiceByKills) {
#ifdef SPILLWAY_SANITIZED
  constexpr int kKills = 8;
#else
  constexpr int kKills = 50;
#endif
  program_.write("in.jsonl", numbered(400, 24) + "{\n");
  ASSERT_EQ(run(command({}, "undisturbed")).exit_code, 0);
  const auto expected = answers(out("undisturbed"));
  ASSERT_EQ(expected.size(), 401u);
  std::mt19937 random(7);
  std::uniform_int_distribution<int> milliseconds(20, 300);
  std::string before;
  int jobs = 0;
  for (int kills = 0; kills < kKills;) {
    const pid_t child = start(command());
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds(random)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    const std::string now = fs::exists(out()) ? read_file(out()) : "";
    ASSERT_TRUE(now.starts_with(before)) << "after " << kills << " kills";
    before = now.substr(0, now.rfind('\n') + 1);
    if (WIFSIGNALED(status)) {
      ++kills;
      continue;
    }
    ASSERT_EQ(WEXITSTATUS(status), 0) << read_file(folder_ / "err");
    ASSERT_EQ(answers(out()), expected);
    ++jobs;
    fs::remove(out());
    fs::remove(JobRecord::name(out()));
    before.clear();
  }
  const Result last = run(command());
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(answers(out()), expected) << "the job after " << jobs << " whole ones";
}

TEST_F(Batch, MemoryGrowsByAFewBytesALine) {
  SKIP_UNDER_SANITIZERS();
  const auto peak = [&](int lines) {
    std::ofstream file(in());
    for (int i = 0; i < lines; ++i) file << request("name-" + std::to_string(i), {{"prompt", "x"}, {"n", 2}});
    file.close();
    const std::string name = "lines" + std::to_string(lines);
    const Result result = run(command({"--ordered"}, name));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.peak_bytes;
  };
  constexpr int kFew = 1000, kMany = 200000;
  const uint64_t few = peak(kFew), many = peak(kMany);
  EXPECT_LT(many, few + 48 * kMany);
}

TEST_F(Batch, FiveHundredRequestsStayInsideTheBudget) {
  SKIP_UNDER_SANITIZERS();
  program_.write("in.jsonl", numbered(500, 24));
  const Result result = run(command({"--device-mem", "48MiB"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_LE(result.peak_bytes, uint64_t{48} << 20) << result.err;
  EXPECT_EQ(answers(out()).size(), 500u);
}

TEST_F(Batch, AHostileLineTakesASmallMultipleOfItself) {
  SKIP_UNDER_SANITIZERS();
  constexpr size_t kBytes = 1100 << 10;
  const auto peak = [&](const std::string& name, const std::string& text) {
    program_.write("in.jsonl", text + "\n");
    const Result result = run(command({}, name));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(answers(out(name)).size(), 1u);
    return result.peak_bytes;
  };
  const auto repeated = [](const std::string& before, const std::string& part, const std::string& after) {
    std::string text = before;
    while (text.size() + after.size() < kBytes) text += part;
    return text + after;
  };
  constexpr uint64_t kBuffers = 8 << 20;  // that any line needs, and what the allocator keeps
  const uint64_t idle = peak("idle", "{") + kBuffers;
  const std::string frame = R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":)";
  EXPECT_LT(peak("arrays", repeated("[", "[],", "0]")), idle + 16 * kBytes);
  EXPECT_LT(peak("objects", repeated("[", R"({"a":{}},)", "0]")), idle + 16 * kBytes);
  EXPECT_LT(peak("ids", repeated(frame + "[", "12345,", "1]}}")), idle + 16 * kBytes);
  EXPECT_LT(peak("text", repeated(frame + "\"", "words ", "\"}}")), idle + 16 * kBytes);
  EXPECT_LT(peak("longer", std::string(3 * kBytes, 'x')), idle + 4 * kBytes);
}

}  // namespace
}  // namespace spillway
