#include "kernels/cpu/free_memory.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <string>

#include "kernels/check.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMiB = 1 << 20;

// A small /proc and /sys of our own.
class FreeMemory : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "spillway-free-memory-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    1048576 kB\nCached: 5 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void write_group_v1(const fs::path& folder, const std::string& limit, uint64_t usage, uint64_t inactive_file) {
    const fs::path at = fs::path("sys/fs/cgroup/memory") / folder;
    write(at / "memory.limit_in_bytes", limit + "\n");
    write(at / "memory.usage_in_bytes", std::to_string(usage) + "\n");
    write(at / "memory.stat", "cache 999\ninactive_file 3\ntotal_cache 12\ntotal_inactive_file " +
                                  std::to_string(inactive_file) + "\ntotal_active_file 4\n");
  }
  void write_group_v2(const fs::path& folder, const std::string& max, uint64_t current, uint64_t inactive_file) {
    const fs::path at = fs::path("sys/fs/cgroup") / folder;
    write(at / "memory.max", max + "\n");
    write(at / "memory.current", std::to_string(current) + "\n");
    write(at / "memory.stat", "anon 1\nfile 2\ninactive_file " + std::to_string(inactive_file) + "\n");
  }
  uint64_t free_bytes() const { return free_memory_bytes(root_); }

  fs::path root_;
};

TEST_F(FreeMemory, WithoutGroupsWhatTheMachineHas) {
  EXPECT_EQ(free_bytes(), 1024 * kMiB);
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(free_bytes(), 1024 * kMiB);
  EXPECT_FALSE(free_memory_is_a_groups(root_));
}

TEST_F(FreeMemory, Version2LimitLessUsagePlusReclaimable) {
  write("proc/self/cgroup", "0::/user.slice/job\n");
  write_group_v2("user.slice/job", std::to_string(512 * kMiB), 300 * kMiB, 100 * kMiB);
  EXPECT_EQ(free_bytes(), 312 * kMiB);
  EXPECT_TRUE(free_memory_is_a_groups(root_));
}

TEST_F(FreeMemory, Version2EveryLevelCounts) {
  write("proc/self/cgroup", "0::/a/b/c\n");
  write_group_v2("a/b/c", "max", 300 * kMiB, 0);
  write_group_v2("a/b", std::to_string(900 * kMiB), 300 * kMiB, 0);
  write_group_v2("a", std::to_string(800 * kMiB), 700 * kMiB, 10 * kMiB);
  EXPECT_EQ(free_bytes(), 110 * kMiB);
}

TEST_F(FreeMemory, Version2HighIsALimitToo) {
  write("proc/self/cgroup", "0::/a\n");
  write_group_v2("a", std::to_string(900 * kMiB), 300 * kMiB, 0);
  write("sys/fs/cgroup/a/memory.high", std::to_string(400 * kMiB) + "\n");
  EXPECT_EQ(free_bytes(), 100 * kMiB);
}

TEST_F(FreeMemory, Version2UnderUnified) {
  write("proc/self/cgroup", "3:cpuset:/\n0::/a\n");
  write_group_v2("unified/a", std::to_string(200 * kMiB), 50 * kMiB, 0);
  EXPECT_EQ(free_bytes(), 150 * kMiB);
}

TEST_F(FreeMemory, Version1CountsTheTotalOfItsDescendants) {
  write("proc/self/cgroup", "9:name=systemd:/\n5:cpu,memory:/jobs/one\n0::/\n");
  write_group_v1("jobs/one", "9223372036854771712", 100 * kMiB, 0);
  write_group_v1("jobs", std::to_string(600 * kMiB), 500 * kMiB, 200 * kMiB);
  EXPECT_EQ(free_bytes(), 300 * kMiB);
}

TEST_F(FreeMemory, InAContainerThePathLeadsNowhereAndTheMountIsOurs) {
  write("proc/self/cgroup", "5:memory:/docker/0123\n");
  write_group_v1("", std::to_string(256 * kMiB), 56 * kMiB, 0);
  EXPECT_EQ(free_bytes(), 200 * kMiB);
}

TEST_F(FreeMemory, OtherControllersAreNotMemory) {
  write("proc/self/cgroup", "5:memory_numa:/a\n4:cpuset:/a\n");
  write_group_v1("a", std::to_string(1 * kMiB), 0, 0);
  EXPECT_EQ(free_bytes(), 1024 * kMiB);
}

TEST_F(FreeMemory, UsageOverTheLimitLeavesNothing) {
  write("proc/self/cgroup", "0::/a\n");
  write_group_v2("a", std::to_string(100 * kMiB), 101 * kMiB, 0);
  EXPECT_EQ(free_bytes(), 0u);
}

TEST_F(FreeMemory, MoreReclaimableThanUsedIsTheWholeLimit) {
  write("proc/self/cgroup", "0::/a\n");
  write_group_v2("a", std::to_string(100 * kMiB), 10 * kMiB, 50 * kMiB);
  EXPECT_EQ(free_bytes(), 100 * kMiB);
}

TEST_F(FreeMemory, TornFilesSetNoLimit) {
  write("proc/self/cgroup", "0::/a\ngarbage\n7\n8:memory\n");
  write("sys/fs/cgroup/a/memory.max", "");
  write("sys/fs/cgroup/a/memory.current", "x\n");
  EXPECT_EQ(free_bytes(), 1024 * kMiB);
}

TEST_F(FreeMemory, WithoutMeminfoItSaysSo) {
  write("proc/meminfo", "MemTotal: 5 kB\n");
  EXPECT_THROW(free_bytes(), Error);
  fs::remove(root_ / "proc/meminfo");
  try {
    free_bytes();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_NE(std::string(error.what()).find("proc/meminfo"), std::string::npos);
  }
}

TEST(FreeMemoryOfThisMachine, IsKnown) { EXPECT_GT(free_memory_bytes(), kMiB); }

}  // namespace
}  // namespace spillway
