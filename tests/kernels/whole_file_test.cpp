#include "kernels/whole_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/check.h"

namespace spillway {
namespace {

class WholeFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("whole_file_" + std::to_string(getpid()) +
                                                        testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string text(const std::string& name) const {
    std::stringstream all;
    all << std::ifstream(folder_ / name).rdbuf();
    return all.str();
  }
  auto entries() const { return std::distance(std::filesystem::directory_iterator(folder_), {}); }
  std::filesystem::path folder_;
};

TEST_F(WholeFileTest, AppearsAtCommitAndReplaces) {
  std::ofstream(folder_ / "a") << "old";
  {
    WholeFile file(folder_ / "a", 0600);
    file.write("hello ");
    file.write("world");
    file.write_at(0, "H");
    EXPECT_EQ(text("a"), "old");
    file.commit();
  }
  EXPECT_EQ(text("a"), "Hello world");
  WholeFile fresh(folder_ / "b");  // replaces nothing
  fresh.write("new");
  fresh.commit();
  EXPECT_EQ(text("b"), "new");
  EXPECT_EQ(entries(), 2);
  struct stat status {};
  ASSERT_EQ(::stat((folder_ / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(WholeFileTest, LeavesNothingWithoutCommit) {
  std::ofstream(folder_ / "a") << "old";
  { WholeFile(folder_ / "a").write("new"); }
  EXPECT_EQ(text("a"), "old");
  EXPECT_EQ(entries(), 1);
}

TEST_F(WholeFileTest, LeavesNothingAfterADeath) {
  const int unnamed = ::open(folder_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (unnamed < 0) GTEST_SKIP() << "this file system has no files without a name";
  ::close(unnamed);
  for (const int signal : {SIGKILL, SIGTERM, SIGHUP}) {
    const pid_t child = fork();
    if (child == 0) {
      WholeFile file(folder_ / "a");
      file.write("half");
      std::signal(signal, SIG_DFL);
      static_cast<void>(raise(signal));
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(entries(), 0) << signal;
  }
}

TEST_F(WholeFileTest, FollowsALinkAndKeepsItThoughItNamesNothing) {
  std::filesystem::create_symlink("a", folder_ / "link");
  for (const char* words : {"new", "newer"}) {  // the first time there is nothing
    WholeFile file(folder_ / "link");
    file.write(words);
    file.commit();
    EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "link"));
    EXPECT_EQ(text("a"), words);
  }
}

TEST_F(WholeFileTest, WhatIsReplacedKeepsItsPermissions) {
  namespace fs = std::filesystem;
  std::ofstream(folder_ / "a") << "old";
  for (const fs::perms perms : {fs::perms::owner_read | fs::perms::owner_write, fs::perms(0666)}) {
    fs::permissions(folder_ / "a", perms);
    WholeFile file(folder_ / "a");
    file.write("new");
    file.commit();
    EXPECT_EQ(fs::status(folder_ / "a").permissions(), perms);
  }
}

TEST_F(WholeFileTest, WritesADeviceInPlace) {
  WholeFile file("/dev/null");
  file.write("gone");
  file.commit();
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(WholeFileTest, NamesThePathItCannotWrite) {
  try {
    WholeFile file(folder_ / "missing" / "a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), testing::HasSubstr("missing/a: cannot be created"));
  }
  EXPECT_THROW(WholeFile{folder_.string()}, Error);
}

}  // namespace
}  // namespace spillway
