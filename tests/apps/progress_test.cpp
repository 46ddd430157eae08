#include "apps/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <thread>
#include <vector>

namespace spillway {
namespace {

using testing::HasSubstr;
using testing::Not;

// A terminal, or a log, of our own.
struct Screen {
  double now = 100;
  int columns = 80;
  std::vector<std::string> writes;

  ProgressOutput output(bool terminal, bool color = false) {
    return {.terminal = terminal,
            .color = color,
            .width = [this] { return columns; },
            .seconds = [this] { return now; },
            .write = [this](std::string_view text) { writes.emplace_back(text); }};
  }
};

// What a line occupies on the screen: without escape sequences and the return.
std::string visible(const std::string& line) {
  return std::regex_replace(line, std::regex("\x1b\\[[0-9]*[mK]|\r"), "");
}

int percent(const std::string& line) {
  std::smatch match;
  const std::string text = visible(line);
  return std::regex_search(text, match, std::regex("([0-9]+)%")) ? std::stoi(match[1]) : -1;
}

TEST(ProgressTest, ALongJobSaysItsOwnSpeedAndSpeaksSeldom) {
  Screen screen;
  ProgressOutput output = screen.output(false);
  output.line_seconds = 30;
  output.smoothing_seconds = 60;
  Progress progress(output, "batch", 100, ProgressUnit::items, "requests", 40);
  progress.note("812 tokens/s");
  for (int i = 1; i <= 35; ++i) {
    screen.now += 1;
    progress.update(40 + static_cast<uint64_t>(i));
  }
  ASSERT_EQ(screen.writes.size(), 1u);
  EXPECT_EQ(screen.writes[0], "batch: 70 of 100 requests, 812 tokens/s, ETA 30 s\n");
}

// A beginning is slower than what follows, and the end of a second's work is no minute away.
TEST(ProgressTest, WhatBeginsHasNoSpeedYet) {
  Screen screen;
  Progress progress(screen.output(true), "load", 1ull << 30, ProgressUnit::bytes);
  screen.now += 0.8;
  progress.update(1 << 20);
  EXPECT_EQ(visible(screen.writes.back()).find("ETA"), std::string::npos) << screen.writes.back();
  screen.now += 0.4;
  progress.update(600 << 20);
  EXPECT_NE(visible(screen.writes.back()).find("ETA 1 s"), std::string::npos) << screen.writes.back();
}

TEST(ProgressTest, BarOnATerminal) {
  Screen screen;
  Progress progress(screen.output(true), "load", 4ull << 30, ProgressUnit::bytes);
  for (int i = 1; i <= 10; ++i) {
    screen.now += 0.5;
    progress.update(static_cast<uint64_t>(i) << 28);
  }
  EXPECT_EQ(visible(screen.writes.back()),
            "load  62% [==================>           ]  ETA 3 s  2.5 GiB of 4 GiB  537 MB/s");
  EXPECT_THAT(screen.writes.back(), testing::StartsWith("\rload"));
  EXPECT_THAT(screen.writes.back(), testing::EndsWith("\x1b[K"));
  progress.finish();
  EXPECT_EQ(screen.writes.back(), "\r\x1b[K");
  const size_t count = screen.writes.size();
  progress.update(4ull << 30);
  progress.finish();
  EXPECT_EQ(screen.writes.size(), count);
}

TEST(ProgressTest, ColorOnlyWhereAsked) {
  for (const bool color : {false, true}) {
    Screen screen;
    Progress progress(screen.output(true, color), "load", 10, ProgressUnit::items);
    screen.now += 1;
    progress.update(5);
    EXPECT_EQ(screen.writes.back().find("\x1b[36m") != std::string::npos, color);
  }
}

TEST(ProgressTest, NeverWiderThanTheTerminalAndNeverBackwards) {
  for (const int columns : {1, 8, 12, 20, 33, 40, 60, 80, 200}) {
    Screen screen;
    screen.columns = columns;
    Progress progress(screen.output(true, true), "prefill", 1000, ProgressUnit::items, "tokens");
    int last = 0;
    for (const uint64_t done : {0, 10, 500, 300, 0, 700, 2000}) {
      screen.now += 1;
      progress.update(done);
      EXPECT_LE(visible(screen.writes.back()).size(), static_cast<size_t>(std::max(columns - 1, 8)));
      EXPECT_GE(percent(screen.writes.back()), last);
      last = percent(screen.writes.back());
    }
    EXPECT_EQ(last, 100);
  }
}

TEST(ProgressTest, RedrawsAtMostTenTimesASecond) {
  Screen screen;
  Progress progress(screen.output(true), "load", 10000, ProgressUnit::items);
  for (uint64_t i = 0; i < 10000; ++i) {
    screen.now += 0.0002;
    progress.update(i);
  }
  EXPECT_GE(screen.writes.size(), 18u);
  EXPECT_LE(screen.writes.size(), 20u);
}

TEST(ProgressTest, PlainLinesEveryFiveSecondsElsewhere) {
  Screen screen;
  Progress progress(screen.output(false), "batch", 1000, ProgressUnit::items, "lines");
  for (uint64_t i = 1; i <= 120; ++i) {
    screen.now += 0.1;
    progress.update(i * 5);
  }
  ASSERT_EQ(screen.writes.size(), 2u);
  EXPECT_THAT(screen.writes[0], testing::MatchesRegex("batch: 25[05] of 1000 lines, 50.0 lines/s, ETA 1[56] s\n"));
  progress.finish();
  ASSERT_EQ(screen.writes.size(), 3u);
  EXPECT_THAT(screen.writes[2], testing::MatchesRegex("batch: 600 of 1000 lines in 1[23] s\n"));
}

TEST(ProgressTest, ShortWorkSaysNothing) {
  for (const bool terminal : {false, true}) {
    Screen screen;
    {
      Progress progress(screen.output(terminal), "load", 100, ProgressUnit::items);
      screen.now += 0.05;
      progress.update(100);
    }
    EXPECT_TRUE(screen.writes.empty());
  }
}

TEST(ProgressTest, EtaIsSmoothAndFollowsAChange) {
  Screen screen;
  screen.columns = 200;
  Progress progress(screen.output(true), "batch", 100000, ProgressUnit::items);
  const auto eta = [&] {
    std::smatch match;
    const std::string text = visible(screen.writes.back());
    return std::regex_search(text, match, std::regex("ETA ([0-9]+):([0-9]+)"))
               ? std::stoi(match[1]) * 60 + std::stoi(match[2])
               : -1;
  };
  uint64_t done = 0;
  // 100 items a second, in bursts: a second of nothing, then 200.
  for (int i = 0; i < 30; ++i) {
    screen.now += 1;
    if (i % 2 == 1) done += 200;
    progress.update(done);
    if (i > 2) {
      EXPECT_NEAR(eta(), (100000 - static_cast<double>(done)) / 100, 15) << i;
    }
  }
  // Half the speed from now on: known within some twenty seconds, without a leap.
  int last = eta();
  for (int i = 0; i < 20; ++i) {
    screen.now += 1;
    progress.update(done += 50);
    EXPECT_LT(std::abs(eta() - last), 300);
    last = eta();
  }
  EXPECT_NEAR(last, (100000 - static_cast<double>(done)) / 50, 40);
}

TEST(ProgressTest, ResumedWorkIsDoneButNotSpeed) {
  Screen screen;
  screen.columns = 200;
  Progress progress(screen.output(true), "batch", 1000, ProgressUnit::items, "", 900);
  screen.now += 1;
  progress.update(910);
  EXPECT_THAT(visible(screen.writes.back()), HasSubstr("91%"));
  EXPECT_THAT(visible(screen.writes.back()), HasSubstr("ETA 9 s  910 of 1000  10.0 items/s"));
}

TEST(ProgressTest, NothingToDo) {
  Screen screen;
  Progress progress(screen.output(true), "load", 0, ProgressUnit::bytes);
  screen.now += 1;
  progress.update(0);
  EXPECT_THAT(visible(screen.writes.back()), HasSubstr("100%"));
  EXPECT_THAT(visible(screen.writes.back()), Not(HasSubstr("ETA")));
}

TEST(ProgressTest, UpdatedFromManyThreads) {
  Screen screen;
  Progress progress(screen.output(true), "load", 4000, ProgressUnit::items);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i <= 1000; ++i) progress.update(i * 4);
    });
  }
  for (auto& thread : threads) thread.join();
  screen.now += 1;
  progress.update(0);
  EXPECT_EQ(percent(screen.writes.back()), 100);
}

TEST(ProgressTest, Durations) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(2.1), "3 s");
  EXPECT_EQ(format_duration(59.5), "1:00");
  EXPECT_EQ(format_duration(65), "1:05");
  EXPECT_EQ(format_duration(7384), "2:03:04");
  EXPECT_EQ(format_duration(-1), "0 s");
}

}  // namespace
}  // namespace spillway
