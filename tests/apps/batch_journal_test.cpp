// The journal of a batch: what is written once is there after any death, and nothing is answered twice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>

#include "apps/batch/file_names.h"
#include "apps/batch/journal.h"
#include "apps/batch/merge.h"
#include "apps/batch/request_reader.h"
#include "apps/batch/result_file.h"
#include "kernels/check.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kHash = 0x1234;

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string refusal(const std::function<void()>& call, ErrorKind kind = ErrorKind::usage) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "nothing was refused";
}

class BatchJournal : public ::testing::Test {
 protected:
  BatchJournal() : folder_(fs::temp_directory_path() / ("spillway-journal-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~BatchJournal() override { fs::remove_all(folder_); }

  static JobFacts facts(uint64_t lines = 5) {
    return {.input = {.bytes = 100, .lines = lines, .requests = lines, .hash = kHash},
            .model = "m",
            .flags = {{"--kv-type", "fp16"}, {"--seed", "0"}}};
  }
  std::string path(const std::string& name = "out.jsonl") const { return folder_ / name; }
  std::unique_ptr<Journal> open(bool retry = false) const {
    return std::make_unique<Journal>(path(), JobRecord::open(path(), facts(), "in"), retry);
  }
  // As large as an answer's, so that a line can be torn anywhere.
  static std::string good(uint64_t line, uint64_t hash = kHash) {
    const std::string fault = ResultLines::fault(hash, line, LineFault("c", "m"));
    return std::string(fault).replace(fault.find("\"response\":null"), 15, "\"response\":{\"x\":\"y\"}");
  }
  static std::string bad(uint64_t line) { return ResultLines::fault(kHash, line, LineFault("c", "m")); }

  fs::path folder_;
};

TEST_F(BatchJournal, GoesOnWhereverItWasTorn) {
  {
    const auto journal = open();
    for (const uint64_t line : {2, 1, 4}) journal->append(line, good(line), false);
    journal->finish(false);
  }
  const std::string whole = read_all(path());
  for (size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << whole.substr(0, bytes);
    const auto lines =
        static_cast<uint64_t>(std::count(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(bytes), '\n'));
    const auto journal = open();
    EXPECT_EQ(journal->answered(), lines);
    EXPECT_EQ(journal->cut_bytes(), bytes - (lines == 0 ? 0 : whole.rfind('\n', bytes - 1) + 1)) << bytes;
    for (const uint64_t line : {2, 1, 4}) {
      if (!journal->done(line)) journal->append(line, good(line), false);
    }
    journal->finish(false);
    ASSERT_EQ(read_all(path()), whole) << bytes;
  }
}

TEST_F(BatchJournal, ZerosThatTheDriveLeftAreCutOff) {
  open()->append(3, good(3), false);
  for (const std::string& after : {std::string(), std::string("\n"), "\n" + good(4).substr(9) + "\n" + good(4)}) {
    std::ofstream(path(), std::ios::binary | std::ios::app) << std::string(100, '\0') << after;
    const auto journal = open();
    EXPECT_EQ(journal->answered(), 1u);
    EXPECT_EQ(read_all(path()), good(3) + "\n");
  }
}

TEST_F(BatchJournal, ZerosBeforeResultsCostNoResult) {
  open()->append(3, good(3), false);
  std::ofstream(path(), std::ios::binary | std::ios::app) << std::string(100, '\0') << "\n" << good(4) << "\n";
  const std::string before = read_all(path());
  EXPECT_THAT(refusal([&] { open(); }), HasSubstr("line 2 holds bytes of zero, and results follow"));
  EXPECT_EQ(read_all(path()), before);
}

// Of a record that somebody else has made, and memory or messages that would grow by what it claims.
TEST_F(BatchJournal, ARecordThatLiesIsNone) {
  const auto write = [&](const std::string& lines, const std::string& shards) {
    std::ofstream(JobRecord::name(path()))
        << R"({"spillway_batch":1,"input":{"xxh3":"1234","bytes":9000000000000000000,"lines":)" << lines
        << R"(,"requests":1},"shard":1,"shards":)" << shards << R"(,"model":"m","flags":{},"found":{}})";
    std::ofstream(path()) << good(1) << "\n";
  };
  for (const char* lines : {"18446744073709551615", "8000000000000000000", "1e300", "-1", "true", "[]"}) {
    write(lines, "1");
    EXPECT_THAT(refusal([&] { JobRecord::open_existing(path()); }), HasSubstr("no record of a batch")) << lines;
  }
  for (const char* shards : {"2147483648", "1e300", "0", "-1"}) {
    write("5", shards);
    EXPECT_THAT(refusal([&] { JobRecord::open_existing(path()); }), HasSubstr("no record of a batch")) << shards;
  }
  write("5", "2147483647");
  const std::string message = refusal([&] { merge_batches(path("all"), {path()}); });
  EXPECT_THAT(message, HasSubstr("2/2147483647, 3/2147483647"));
  EXPECT_THAT(message, HasSubstr("and 2147483630 others"));
}

TEST_F(BatchJournal, BlankLinesArePassedOver) {
  open()->append(3, good(3), false);
  std::ofstream(path(), std::ios::binary | std::ios::app) << "\n\r\n" << good(1) << "\n";
  {
    const auto journal = open();
    EXPECT_EQ(journal->answered(), 2u);
    EXPECT_EQ(journal->cut_bytes(), 0u);
    journal->append(2, good(2), false);
    journal->finish(true);
  }
  EXPECT_EQ(read_all(path()), good(1) + "\n" + good(2) + "\n" + good(3) + "\n");
}

TEST_F(BatchJournal, AFileOfAnotherThatHasTheNameOfTheRecordIsNotTouched) {
  for (const std::string& foreign :
       {std::string("{\"custom_id\": 1}\n"), std::string("{\"spillway"), std::string("\n")}) {
    std::ofstream(JobRecord::name(path())) << foreign;
    const bool torn = foreign != "{\"custom_id\": 1}\n";
    const std::string said = refusal([&] { open(); });
    EXPECT_THAT(said, HasSubstr(torn ? "nothing was refused" : "lies where the record of -o"));
    EXPECT_EQ(read_all(JobRecord::name(path())) == foreign, !torn);
    EXPECT_EQ(fs::exists(path()), torn);
  }
  fs::remove(path());
}

TEST_F(BatchJournal, AnOutputThatWasTakenAwayIsBegunAnew) {
  open()->append(1, good(1), false);
  fs::remove(path());
  JobFacts other = facts();
  other.input.hash = 9;
  EXPECT_EQ(JobRecord::open(path(), other, "in").facts().input.hash, 9u);
  EXPECT_EQ(JobRecord::open_existing(path()).facts().input.hash, 9u);
}

TEST_F(BatchJournal, WritingItAnewKeepsItsPermissions) {
  {
    const auto journal = open();
    journal->append(2, good(2), false);
    journal->append(1, good(1), false);
    fs::permissions(path(), fs::perms::owner_read | fs::perms::owner_write);
    journal->finish(true);
  }
  EXPECT_EQ(fs::status(path()).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(BatchJournal, WhatIsNoneOfItsOwnIsNeverCutOff) {
  open()->append(3, good(3), false);
  const std::string foreign[] = {"edited\n", good(3) + "\n", good(9) + "\n", good(2, 0x99) + "\n"};
  const char* words[] = {"line 2 is no result", "line 2 answers a line that has an answer", "line 2 is no result",
                         "line 2 is no result"};
  for (size_t i = 0; i < std::size(foreign); ++i) {
    const std::string bytes = good(3) + "\n" + foreign[i];
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
    EXPECT_THAT(refusal([&] { open(); }), HasSubstr(words[i]));
    EXPECT_EQ(read_all(path()), bytes);
  }
}

TEST_F(BatchJournal, ErrorsAreAskedAgainAndOrderIsRestored) {
  {
    const auto journal = open();
    journal->append(5, good(5), false);
    journal->append(2, bad(2), true);
    journal->append(1, good(1), false);
    EXPECT_EQ(journal->failed(), 1u);
    journal->finish(false);
  }
  EXPECT_EQ(open()->failed(), 1u);
  {
    const auto journal = open(true);
    EXPECT_EQ(journal->retried(), 1u);
    EXPECT_EQ(journal->failed(), 0u);
    EXPECT_FALSE(journal->done(2));
    EXPECT_TRUE(journal->done(5));
    journal->append(2, good(2), false);
    journal->finish(true);
  }
  EXPECT_EQ(read_all(path()), good(1) + "\n" + good(2) + "\n" + good(5) + "\n");
  EXPECT_EQ(open()->answered(), 3u);
}

TEST_F(BatchJournal, AFullDriveLeavesWholeLines) {
  const auto journal = open();
  journal->append(1, good(1), false);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit full = before;
  full.rlim_cur = good(1).size() + 20;  // the next line is torn
  setrlimit(RLIMIT_FSIZE, &full);
  const std::string words = refusal([&] { journal->append(2, good(2), false); }, ErrorKind::io);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(words, HasSubstr("the 1 results that it has are whole"));
  EXPECT_EQ(read_all(path()), good(1) + "\n");
}

TEST_F(BatchJournal, MoreLinesThanWereSurveyedAreAChangeAndNoRequests) {
  std::ofstream(path("in")) << "{}\n{}\n{}\n{}\n{}\n{}\n";
  LineFile input("-i", path("in"), 100);
  const auto journal = open();  // of five lines
  RequestReader reader(input, *journal, {});
  RequestReader::Item item;
  for (uint64_t line = 1; line <= journal->lines(); ++line) {
    ASSERT_TRUE(reader.next(item));
    EXPECT_EQ(item.line, line);
  }
  EXPECT_THAT(refusal([&] { reader.next(item); }), HasSubstr("it changed while it was read"));
}

TEST_F(BatchJournal, OneRunAtATime) {
  const auto journal = open();
  EXPECT_THAT(refusal([&] { open(); }), HasSubstr("another run is writing it"));
}

TEST_F(BatchJournal, OtherFactsAreRefusedByName) {
  open()->append(1, good(1), false);
  const auto reopen = [&](const std::function<void(JobFacts&)>& change) {
    JobFacts changed = facts();
    change(changed);
    return refusal([&] { JobRecord::open(path(), changed, "in.jsonl"); });
  };
  EXPECT_THAT(reopen([](JobFacts& f) { f.input.hash = 9; }), HasSubstr("-i in.jsonl: it has changed"));
  EXPECT_THAT(reopen([](JobFacts& f) { f.model = "n"; }), HasSubstr("-m: it is another model"));
  EXPECT_THAT(reopen([](JobFacts& f) { f.shards = 2; }), HasSubstr("--shard: it was 1/1, and is 1/2"));
  EXPECT_THAT(reopen([](JobFacts& f) { f.flags[0].second = "q8"; }), HasSubstr("--kv-type: it was fp16, and is q8"));
  EXPECT_THAT(reopen([](JobFacts& f) { f.flags.pop_back(); }), HasSubstr("--seed: it was 0, and is not given"));
}

TEST_F(BatchJournal, WhatTheFirstRunHasFoundIsKeptTo) {
  using Found = std::vector<std::pair<std::string, std::string>>;
  const Found first{{"skew", "a"}, {"rank", "0"}};
  {
    const auto journal = open();
    journal->record().settle({});
    journal->record().settle(first);
    journal->append(1, good(1), false);
  }
  const auto journal = open();
  EXPECT_EQ(journal->record().facts().found, first);
  journal->record().settle(first);
  EXPECT_THAT(refusal([&] {
                journal->record().settle({{"skew", "b"}, {"rank", "0"}});
              }),
              HasSubstr("skew: it was a, and is b"));
  EXPECT_THAT(refusal([&] {
                journal->record().settle({{"skew", "a"}, {"rank", "8"}});
              }),
              HasSubstr("rank: it was 0, and is 8"));
  EXPECT_THAT(refusal([&] { journal->record().settle({}); }), HasSubstr("skew: it was a, and is "));
}

TEST_F(BatchJournal, AnOutputWithoutARecordIsNotTouched) {
  std::ofstream(path()) << "precious\n";
  EXPECT_THAT(refusal([&] { open(); }), HasSubstr("it is there"));
  EXPECT_EQ(read_all(path()), "precious\n");
  EXPECT_FALSE(fs::exists(JobRecord::name(path())));
  std::ofstream(JobRecord::name(path())) << "{\"spillway_batch\": 1, \"inp";
  EXPECT_THAT(refusal([&] { open(); }), HasSubstr("not whole"));
  fs::remove(path());
  EXPECT_EQ(open()->answered(), 0u) << "a record that was torn before there were answers";
}

TEST_F(BatchJournal, ShardsAreMergedOnlyWhenAllAreWhole) {
  const auto write = [&](int shard, const std::vector<uint64_t>& lines) {
    const std::string part = path("part" + std::to_string(shard));
    JobFacts of_part = facts();
    of_part.shard = shard;
    of_part.shards = 2;
    Journal journal(part, JobRecord::open(part, of_part, "in"), false);
    for (const uint64_t line : lines) journal.append(line, line == 4 ? bad(4) : good(line), line == 4);
    return part;
  };
  const std::string odd = write(1, {5, 1}), even = write(2, {4, 2});
  EXPECT_THAT(refusal([&] { merge_batches(path("all"), {even}); }), HasSubstr("no output of shard 1/2"));
  EXPECT_THAT(refusal([&] { merge_batches(path("all"), {even, even}); }), HasSubstr("given twice"));
  EXPECT_THAT(refusal([&] { merge_batches(path("all"), {even, odd}); }), HasSubstr("it has 2 of its 3 results"));
  write(1, {3});
  const MergeReport report = merge_batches(path("all"), {even, odd});
  EXPECT_EQ(report.answered, 5u);
  EXPECT_EQ(report.errors, 1u);
  EXPECT_EQ(read_all(path("all")), good(1) + "\n" + good(2) + "\n" + good(3) + "\n" + bad(4) + "\n" + good(5) + "\n");
  EXPECT_THAT(refusal([&] { merge_batches(path("all"), {even, odd}); }), HasSubstr("it is there already"));
  Journal all(path("all"), JobRecord::open(path("all"), facts(), "in"), true);
  EXPECT_EQ(all.retried(), 1u) << "what was merged goes on as one job";
}

TEST_F(BatchJournal, LinksAreFollowedAndOneFileHasOneName) {
  fs::create_directory(path("folder"));
  fs::create_symlink("folder/real", path("relative"));
  fs::create_symlink(path("relative"), path("twice"));
  EXPECT_EQ(followed(path()), path());
  EXPECT_EQ(followed(path("twice")), path("folder/real")) << "though nothing is there";
  fs::create_symlink("loop", path("loop"));
  EXPECT_THAT(refusal([&] { followed(path("loop")); }), HasSubstr("too many"));
  const NamedFile output{"-o", path("folder/real")};
  EXPECT_THAT(refusal([&] {
                refuse_written({"-i", path("twice")}, output);
              }),
              HasSubstr("-i and -o are the same file"));
  EXPECT_THAT(refusal([&] {
                refuse_written({"-i", path("folder/../folder/real.journal")}, output);
              }),
              HasSubstr("-o writes this file beside its own"));
  EXPECT_EQ(refusal([&] { refuse_written({"-i", path("folder/real.tmp")}, output); }), "nothing was refused");
  EXPECT_EQ(refusal([&] { refuse_written({"--trace", ""}, output); }), "nothing was refused");
}

TEST(BatchShard, EveryRequestIsInOneShard) {
  for (const int count : {1, 3, 7}) {
    for (const uint64_t requests : {0u, 1u, 6u, 7u, 100u}) {
      uint64_t sum = 0;
      for (int i = 1; i <= count; ++i) {
        const Shard shard{.index = i, .count = count};
        uint64_t own = 0;
        for (uint64_t r = 0; r < requests; ++r) own += shard.has(r) ? 1 : 0;
        EXPECT_EQ(own, shard.share(requests));
        sum += own;
      }
      EXPECT_EQ(sum, requests);
    }
  }
}

TEST(BatchNames, AreSeenOnce) {
  NameSet names;
  for (int i = 0; i < 5000; ++i) EXPECT_TRUE(names.insert(std::to_string(i)));
  for (int i = 0; i < 5000; ++i) EXPECT_FALSE(names.insert(std::to_string(i)));
}

}  // namespace
}  // namespace spillway
