#include "kernels/cpu/control_groups.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <string>
#include <vector>

namespace spillway {
namespace {

namespace fs = std::filesystem;

// A small /proc and /sys of our own.
class ControlGroups : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "spillway-control-groups-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  fs::path root_;
};

TEST_F(ControlGroups, NoQuotaWithoutGroupsOrLimits) {
  EXPECT_EQ(processor_quota(root_), std::nullopt);
  write("proc/self/cgroup", "0::/a\n4:cpu,cpuacct:/b\n");
  EXPECT_EQ(processor_quota(root_), std::nullopt);
  write("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/b/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(processor_quota(root_), std::nullopt);
}

TEST_F(ControlGroups, TheLeastQuotaOfAllLevelsCounts) {
  write("proc/self/cgroup", "0::/slice/job\n");
  write("sys/fs/cgroup/slice/job/cpu.max", "400000 100000\n");
  EXPECT_EQ(processor_quota(root_), 4.0);
  write("sys/fs/cgroup/slice/cpu.max", "150000 100000\n");
  EXPECT_EQ(processor_quota(root_), 1.5);
}

TEST_F(ControlGroups, Version1UnderASharedName) {
  write("proc/self/cgroup", "5:memory:/x\n4:cpuacct,cpu:/job\n");
  write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "250000\n");
  write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/x/cpu.cfs_quota_us", "1\n");
  EXPECT_EQ(processor_quota(root_), 2.5);
}

TEST_F(ControlGroups, NonsenseIsNoQuota) {
  write("proc/self/cgroup", "0::/job\nnot a line\n:\n");
  for (const char* text : {"", "0 100000", "100000", "100000 0", "abc def", "99999999999999999999 100000"}) {
    write("sys/fs/cgroup/job/cpu.max", text);
    EXPECT_EQ(processor_quota(root_), std::nullopt) << text;
  }
}

TEST_F(ControlGroups, VisitsFromTheGroupUpToTheMount) {
  write("proc/self/cgroup", "0::/a/b\n");
  std::vector<std::string> seen;
  visit_control_groups(root_, "cpu", [&](const fs::path& folder, int version) {
    EXPECT_EQ(version, 2);
    seen.push_back(folder.lexically_relative(root_ / "sys/fs/cgroup").string());
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"a/b", "a", ".", "unified/a/b", "unified/a", "unified"}));
}

}  // namespace
}  // namespace spillway
