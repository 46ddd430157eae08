// The schedule is data: whatever the items, the ring and the lookahead, nothing is overwritten before its last reader,
// every item arrives, and the list can always run to its end.
#include "prefetch/schedule.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/simulate.h"

namespace spillway {
namespace {

struct Case {
  uint64_t ring_bytes;
  int lookahead;
  std::vector<uint64_t> items;  // bytes of each item of a pass
  int passes;
  bool rewinds;
};

Case random_case(std::mt19937_64& random) {
  const auto upto = [&](uint64_t n) { return random() % n; };
  Case c;
  c.ring_bytes = 1 + upto(1000);
  c.lookahead = static_cast<int>(upto(6));
  c.items.resize(1 + upto(40));
  for (uint64_t& bytes : c.items) bytes = upto(4) == 0 ? c.ring_bytes : 1 + upto(c.ring_bytes);
  c.passes = 1 + static_cast<int>(upto(4));
  c.rewinds = upto(2) == 0;
  return c;
}

std::vector<Fetch> schedule_of(const Case& c) {
  RingPlanner planner(c.ring_bytes, c.lookahead);
  std::vector<Fetch> fetches;
  for (int pass = 0; pass < c.passes; ++pass) {
    if (c.rewinds) planner.rewind();
    for (size_t item = 0; item < c.items.size(); ++item) {
      fetches.push_back(
          planner.place(static_cast<uint32_t>(item), c.items[item], static_cast<int64_t>(fetches.size())));
    }
  }
  return fetches;
}

std::vector<double> seconds_at(const std::vector<Fetch>& fetches, double bytes_per_second) {
  std::vector<double> seconds;
  for (const Fetch& fetch : fetches) seconds.push_back(static_cast<double>(fetch.bytes) / bytes_per_second);
  return seconds;
}

bool overlap(const Fetch& a, const Fetch& b) { return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes; }

TEST(Schedule, NothingIsOverwrittenBeforeItsLastReader) {
  std::mt19937_64 random(1);
  uint64_t reuses = 0;
  for (int i = 0; i < 2000; ++i) {
    const Case c = random_case(random);
    const std::vector<Fetch> fetches = schedule_of(c);
    std::vector<double> steps(fetches.size());
    for (double& seconds : steps) seconds = static_cast<double>(random() % 100);
    const Simulation sim = simulate(fetches, seconds_at(fetches, 1.0 + static_cast<double>(random() % 50)), steps);
    for (size_t later = 0; later < fetches.size(); ++later) {
      ASSERT_LE(fetches[later].offset + fetches[later].bytes, c.ring_bytes);
      ASSERT_GE(sim.step_begin[later], sim.fetches[later].end) << "a step began before its item was there";
      for (size_t earlier = 0; earlier < later; ++earlier) {
        if (!overlap(fetches[earlier], fetches[later])) continue;
        ++reuses;
        ASSERT_GE(fetches[later].after, static_cast<int64_t>(earlier))
            << "the list itself must say so, whatever the link's order";
        ASSERT_GE(sim.fetches[later].begin, sim.step_end[earlier])
            << "step " << earlier << " lost its bytes to item " << later;
      }
    }
  }
  EXPECT_GT(reuses, 100000u);
}

TEST(Schedule, IsEnqueuedInOrderAndNeverWaitsForALaterStep) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    const Case c = random_case(random);
    int64_t last_issue = kNoStep;
    for (const Fetch& fetch : schedule_of(c)) {
      ASSERT_LE(fetch.after, fetch.issue);
      ASSERT_LT(fetch.issue, fetch.step);
      ASSERT_GE(fetch.issue, last_issue);
      if (c.lookahead > 0 && fetch.step > c.lookahead) {
        ASSERT_GE(fetch.issue, fetch.step - 1 - c.lookahead);
      }
      last_issue = fetch.issue;
    }
  }
}

TEST(Schedule, RewoundPassesUseTheSamePlaces) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    Case c = random_case(random);
    c.rewinds = true;
    c.passes = 3;
    const std::vector<Fetch> fetches = schedule_of(c);
    for (size_t at = c.items.size(); at < fetches.size(); ++at) {
      ASSERT_EQ(fetches[at].offset, fetches[at - c.items.size()].offset);
    }
  }
}

// A ring of several items hides the link behind compute: with equal costs a pass takes one of the two, not their sum.
TEST(Schedule, OverlapsFetchAndCompute) {
  const Case c{
      .ring_bytes = 400, .lookahead = 0, .items = std::vector<uint64_t>(100, 100), .passes = 1, .rewinds = false};
  const std::vector<double> one_each(100, 1.0);
  EXPECT_NEAR(simulate(schedule_of(c), one_each, one_each).seconds, 101.0, 1e-9);
  Case single = c;
  single.ring_bytes = 100;
  EXPECT_NEAR(simulate(schedule_of(single), one_each, one_each).seconds, 200.0, 1e-9);
}

}  // namespace
}  // namespace spillway
