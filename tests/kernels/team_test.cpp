#include "kernels/cpu/team.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cpu/cores.h"

namespace spillway {
namespace {

using namespace std::chrono_literals;

TEST(Team, EveryTaskRunsOnce) {
  for (const int workers : {1, 2, 3, 7}) {
    Team team(workers);
    ASSERT_EQ(team.workers(), workers);
    for (const int64_t tasks : {0, 1, 2, 3, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<bool> worker_known{true};
      team.run(tasks, [&](int64_t task, int worker) {
        runs[static_cast<size_t>(task)]++;
        if (worker < 0 || worker >= workers) worker_known = false;
      });
      EXPECT_TRUE(worker_known);
      for (auto& count : runs) ASSERT_EQ(count.load(), 1) << tasks << " tasks, " << workers << " workers";
    }
  }
}

// What a region wrote is read by the next one and by the caller, without atomics: a thread sanitizer sees a region that
// returned too early or a worker that took a task with the description of another region.
TEST(Team, RegionsFollowOneAnother) {
  for (const int workers : {2, 5}) {
    Team team(workers);
    std::vector<int64_t> cells(16, 0);
    for (int64_t region = 0; region < 5000; region++) {
      const int64_t tasks = 2 + region % 15;
      team.run(tasks, [&cells, region, tasks](int64_t task, int) { cells[(task + region) % tasks] += region + task; });
    }
    std::vector<int64_t> expected(16, 0);
    for (int64_t region = 0; region < 5000; region++) {
      const int64_t tasks = 2 + region % 15;
      for (int64_t task = 0; task < tasks; task++) expected[(task + region) % tasks] += region + task;
    }
    EXPECT_EQ(cells, expected);
  }
}

// Tasks that wait for one another end only if each has a worker of its own.
void expect_all_take_part(Team& team) {
  const int workers = team.workers();
  std::atomic<int> arrived{0};
  std::vector<std::atomic<int>> seen(static_cast<size_t>(workers));
  team.run(workers, [&](int64_t, int worker) {
    seen[static_cast<size_t>(worker)]++;
    arrived++;
    while (arrived < workers) std::this_thread::yield();
  });
  for (auto& count : seen) EXPECT_EQ(count.load(), 1);
}

TEST(Team, AllWorkersTakePart) {
  for (const int workers : {2, 4, 9}) {
    Team team(workers);
    for (int i = 0; i < 20; i++) expect_all_take_part(team);
  }
}

TEST(Team, SleepingWorkersWake) {
  Team team(3);
  for (int i = 0; i < 5; i++) {
    std::this_thread::sleep_for(3ms);
    expect_all_take_part(team);
  }
}

TEST(Team, CallerWaitsForStragglers) {
  Team team(2);
  for (int i = 0; i < 5; i++) {
    std::atomic<int> arrived{0};
    int64_t written[2] = {};
    team.run(2, [&](int64_t task, int worker) {
      arrived++;
      while (arrived < 2) std::this_thread::yield();
      if (worker == 1) std::this_thread::sleep_for(3ms);  // the caller has gone to sleep by then
      written[task] = 1;
    });
    EXPECT_EQ(written[0] + written[1], 2);
  }
}

TEST(Team, CallersTakeTurns) {
  Team team(2);
  int64_t shared = 0;
  const auto caller = [&] {
    for (int i = 0; i < 500; i++) {
      team.run(4, [&](int64_t task, int) {
        if (task == 0) shared++;  // unguarded: regions of two callers must not overlap
      });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  EXPECT_EQ(shared, 1000);
}

TEST(Team, EndsWithoutARegion) {
  Team team(4);
  EXPECT_EQ(team.workers(), 4);
}

struct Topology {
  explicit Topology(const char* description) {
    hwloc_topology_init(&topology);
    EXPECT_EQ(hwloc_topology_set_synthetic(topology, description), 0);
    EXPECT_EQ(hwloc_topology_load(topology), 0);
  }
  ~Topology() { hwloc_topology_destroy(topology); }

  std::vector<unsigned> choose(const char* allowed, int threads) const {
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    hwloc_bitmap_list_sscanf(set, allowed);
    auto units = choose_units(topology, set, threads);
    hwloc_bitmap_free(set);
    return units;
  }

  hwloc_topology_t topology = nullptr;
};

using Units = std::vector<unsigned>;

TEST(Cores, OneWorkerForEachCore) {
  const Topology two_threads_a_core("package:2 core:2 pu:2");
  EXPECT_EQ(two_threads_a_core.choose("0-7", 0), (Units{0, 2, 4, 6}));
  EXPECT_EQ(two_threads_a_core.choose("0-7", 3), (Units{0, 2, 4}));
}

TEST(Cores, ThenHyperthreadsThenAgain) {
  const Topology two_threads_a_core("package:1 core:3 pu:2");
  EXPECT_EQ(two_threads_a_core.choose("0-5", 5), (Units{0, 2, 4, 1, 3}));
  EXPECT_EQ(two_threads_a_core.choose("0-5", 8), (Units{0, 2, 4, 1, 3, 5, 0, 2}));
}

TEST(Cores, OnlyWhatIsAllowed) {
  const Topology two_threads_a_core("package:1 core:4 pu:2");
  EXPECT_EQ(two_threads_a_core.choose("1-3,6", 0), (Units{1, 2, 6}));
  EXPECT_EQ(two_threads_a_core.choose("1-3,6", 4), (Units{1, 2, 6, 3}));
  EXPECT_EQ(two_threads_a_core.choose("5", 2), (Units{5, 5}));
}

std::vector<int> my_units() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<int> units;
  for (int i = 0; i < CPU_SETSIZE; i++) {
    if (CPU_ISSET(i, &set)) units.push_back(i);
  }
  return units;
}

TEST(Cores, WorkersArePinnedApart) {
  std::thread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(my_units()[0], &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) GTEST_SKIP() << "this system refuses to pin threads";
    Team team(0);  // made on a pinned thread: it sees the process's units all the same
    team.bind_caller();
    const size_t workers = static_cast<size_t>(team.workers());
    std::vector<std::vector<int>> units(workers);
    std::atomic<size_t> arrived{0};
    team.run(team.workers(), [&](int64_t, int worker) {
      units[static_cast<size_t>(worker)] = my_units();
      arrived++;
      while (arrived < workers) std::this_thread::yield();
    });
    std::vector<int> all;
    for (const auto& mine : units) {
      ASSERT_EQ(mine.size(), 1u);
      all.push_back(mine[0]);
    }
    std::sort(all.begin(), all.end());
    EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end()) << "two workers on one unit";
  }).join();
}

}  // namespace
}  // namespace spillway
