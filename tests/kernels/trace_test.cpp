#include "kernels/trace.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/check.h"

namespace spillway {
namespace {

using nlohmann::json;

class TraceTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("trace_test_" + std::to_string(getpid()) +
                                                        testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ / "trace.json"; }
  json read() const { return json::parse(std::ifstream(path())); }

  std::filesystem::path folder_;
};

// Row number -> name, from the metadata.
std::map<int, std::string> row_names(const json& trace) {
  std::map<int, std::string> names;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") names[event["tid"]] = event["args"]["name"];
  }
  return names;
}

std::vector<json> of_kind(const json& trace, const std::string& kind) {
  std::vector<json> found;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == kind) found.push_back(event);
  }
  return found;
}

TEST_F(TraceTest, RangesOfTracksWithBytes) {
  const Trace::Track compute = Trace::track("compute"), copies = Trace::track("copy \"up\"\n");
  EXPECT_EQ(Trace::track("compute"), compute);
  EXPECT_FALSE(Trace::on());
  { const TraceRange unseen(compute, "before"); }
  Trace::start(path());
  EXPECT_TRUE(Trace::on());
  const int64_t start = Trace::now();
  {
    const TraceRange outer(compute, "layer");
    const TraceRange inner(compute, Trace::keep(std::string("mat") + "mul"));
  }
  Trace::span(copies, "weights", start, start + 2'500'000, 4096);
  Trace::counter("resident", 17);
  Trace::counter("resident", -3);
  Trace::finish();
  EXPECT_FALSE(Trace::on());

  const json trace = read();
  const auto names = row_names(trace);
  const auto spans = of_kind(trace, "X");
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[0]["name"], "layer");
  EXPECT_EQ(spans[1]["name"], "matmul");
  EXPECT_EQ(spans[0]["tid"], spans[1]["tid"]);
  EXPECT_EQ(names.at(spans[0]["tid"]), "compute");
  EXPECT_FALSE(spans[0].contains("args"));
  EXPECT_GE(spans[0]["ts"].get<double>() + spans[0]["dur"].get<double>(),
            spans[1]["ts"].get<double>() + spans[1]["dur"].get<double>());
  EXPECT_EQ(spans[2]["name"], "weights");
  EXPECT_EQ(names.at(spans[2]["tid"]), "copy \"up\"\n");
  EXPECT_EQ(spans[2]["args"]["bytes"], 4096);
  EXPECT_DOUBLE_EQ(spans[2]["dur"], 2500.0);
  const auto counters = of_kind(trace, "C");
  ASSERT_EQ(counters.size(), 2u);
  EXPECT_EQ(counters[0]["args"]["value"], 17);
  EXPECT_EQ(counters[1]["args"]["value"], -3);
  EXPECT_EQ(trace["otherData"]["dropped_events"], "0");
}

TEST_F(TraceTest, NothingLeftBesideTheFileAndNothingWithoutFinish) {
  Trace::start(path());
  EXPECT_FALSE(std::filesystem::exists(path()));
  Trace::finish();
  Trace::finish();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
  EXPECT_EQ(of_kind(read(), "X").size(), 0u);
}

TEST_F(TraceTest, OverlappingWorkTakesLanes) {
  const Trace::Track disk = Trace::track("lanes");
  Trace::start(path());
  const int64_t t = Trace::now();
  Trace::span(disk, "c", t + 20, t + 60);  // overlaps b, after a: back in the first lane
  Trace::span(disk, "a", t, t + 20);
  Trace::span(disk, "b", t + 10, t + 30);  // overlaps a
  Trace::span(disk, "d", t + 25, t + 70);  // overlaps b and c
  Trace::span(disk, "e", t + 22, t + 24);  // inside c
  Trace::finish();
  const json trace = read();
  const auto names = row_names(trace);
  std::map<std::string, std::string> lane;
  for (const json& event : of_kind(trace, "X")) lane[event["name"]] = names.at(event["tid"]);
  EXPECT_EQ(lane["a"], "lanes");
  EXPECT_EQ(lane["b"], "lanes (2)");
  EXPECT_EQ(lane["c"], "lanes");
  EXPECT_EQ(lane["d"], "lanes (3)");
  EXPECT_EQ(lane["e"], "lanes");
}

TEST_F(TraceTest, ManyThreadsAcrossTwoRecords) {
  constexpr int kThreads = 4, kSpans = 3000;
  std::vector<Trace::Track> tracks;
  for (int i = 0; i < kThreads; ++i) tracks.push_back(Trace::track("thread " + std::to_string(i)));
  for (int round = 0; round < 2; ++round) {
    Trace::start(path());
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        for (int s = 0; s < kSpans; ++s) const TraceRange range(tracks[static_cast<size_t>(i)], "work");
      });
    }
    for (auto& thread : threads) thread.join();
    Trace::finish();
    const json trace = read();
    const auto names = row_names(trace);
    std::map<std::string, int> count;
    for (const json& event : of_kind(trace, "X")) ++count[names.at(event["tid"])];
    for (int i = 0; i < kThreads; ++i) EXPECT_EQ(count["thread " + std::to_string(i)], kSpans);
  }
}

TEST_F(TraceTest, FinishWhileOthersRecord) {
  const Trace::Track track = Trace::track("busy");
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop.load()) const TraceRange range(track, "work");
    });
  }
  for (int round = 0; round < 8; ++round) {
    Trace::start(path(), 8192);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Trace::finish();
    for (const json& event : of_kind(read(), "X")) ASSERT_GE(event["ts"].get<double>(), 0.0);
  }
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST_F(TraceTest, AFileThatIsTooSlowLosesEventsAndSaysHowMany) {
  constexpr int kSpans = 200'000;
  ASSERT_EQ(mkfifo(path().c_str(), 0600), 0);
  const int reader = open(path().c_str(), O_RDONLY | O_NONBLOCK);  // and nobody reads
  ASSERT_GE(reader, 0);
  const Trace::Track track = Trace::track("limit");
  Trace::start(path(), 2048);
  const int64_t t = Trace::now();
  for (int i = 0; i < kSpans; ++i) Trace::span(track, "x", t + i, t + i + 1);
  std::string text;
  std::thread reading([&] {
    fcntl(reader, F_SETFL, 0);
    char piece[4096];
    for (ssize_t got; (got = ::read(reader, piece, sizeof piece)) > 0;) text.append(piece, static_cast<size_t>(got));
  });
  Trace::finish();
  reading.join();
  close(reader);
  const json trace = json::parse(text);
  const auto dropped = std::stoul(trace["otherData"]["dropped_events"].get<std::string>());
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(dropped + of_kind(trace, "X").size(), static_cast<size_t>(kSpans));
}

TEST_F(TraceTest, MemoryDoesNotGrowWithTheRecord) {
  const auto peak_kib = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const Trace::Track track = Trace::track("long");
  Trace::start(path());
  const auto record = [&](int spans) {
    for (int i = 0; i < spans; ++i) {
      const TraceRange range(track, "work");
      if (i % 4096 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
  };
  record(1 << 16);
  const long before = peak_kib();
  record(1 << 19);  // 20 MB of records
  const long grown = peak_kib() - before;
  Trace::finish();
  EXPECT_LT(grown, 4 << 10);
}

TEST_F(TraceTest, UnwritablePathIsRefusedAtStart) {
  try {
    Trace::start(folder_ / "missing" / "trace.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), testing::HasSubstr("missing/trace.json"));
  }
  EXPECT_FALSE(Trace::on());
}

}  // namespace
}  // namespace spillway
