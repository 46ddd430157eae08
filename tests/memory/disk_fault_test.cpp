// Files and the disk queue on machines that refuse: no io_uring, no locked memory, no O_DIRECT, no space, bad sectors.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/check.h"
#include "memory/disk_queue.h"
#include "memory/extent.h"
#include "memory/file.h"
#include "tests/support/faults.h"

namespace spillway {
namespace {

using faults::Outcome;
using faults::parse_fault;
using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr uint64_t kBytes = 1 << 20;
constexpr int kSkip = 77;

class DiskFaultTest : public ::testing::Test {
 protected:
  DiskFaultTest() {
    std::string name = (fs::temp_directory_path() / "spillway-fault-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ + "/model.gguf";
    std::string content(kBytes, '\0');
    for (uint64_t i = 0; i < kBytes; ++i) content[i] = content_at(i);
    std::ofstream(path_, std::ios::binary) << content;
    memory_ = static_cast<std::byte*>(std::aligned_alloc(kDiskAlign, kBytes));
  }
  ~DiskFaultTest() override {
    std::free(memory_);
    fs::remove_all(folder_);
  }

  static char content_at(uint64_t i) { return static_cast<char>(i * 31 + i / 4096); }
  size_t entries() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  // Opens the queue, says rung and reason, reads the whole file.
  int read_all() const {
    const File file = File::open_read(path_);
    const auto queue = DiskQueue::open({&file}, {{memory_, kBytes}}, {64 << 10, 4});
    std::printf("[%s] %s\n", kDiskMethodNames[static_cast<int>(queue->method())], queue->why().c_str());
    const DiskRequest request{0, 0, kBytes, memory_};
    queue->read({&request, 1}).wait();
    queue->check();
    for (uint64_t i = 0; i < kBytes; ++i) {
      if (static_cast<char>(memory_[i]) != content_at(i)) return 9;
    }
    return 0;
  }
  bool direct_here() const { return File::open_read(path_).direct_descriptor() >= 0; }

  std::string folder_;
  std::string path_;
  std::byte* memory_ = nullptr;
};

#define RUN_OR_SKIP(outcome, ...)                                                 \
  const Outcome outcome = faults::run(__VA_ARGS__);                               \
  if (!outcome.ran) GTEST_SKIP() << "this machine allows no system call filters"; \
  if (outcome.exit_code == kSkip) GTEST_SKIP() << outcome.output

TEST_F(DiskFaultTest, WithoutIoUringThreadsRead) {
  if (!direct_here()) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  for (const std::string error : {"EPERM", "ENOSYS", "ENOMEM"}) {
    RUN_OR_SKIP(outcome, {parse_fault("io_uring_setup=" + error)}, [&] { return read_all(); });
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("[threads, O_DIRECT] io_uring refused: "));
    const size_t said = outcome.output.find("io_uring refused");
    EXPECT_EQ(outcome.output.find("io_uring refused", said + 1), std::string::npos) << outcome.output;
  }
}

TEST_F(DiskFaultTest, WithoutRegisteredBuffersPlainReads) {
  if (!direct_here()) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  RUN_OR_SKIP(outcome, {parse_fault("io_uring_register=ENOMEM,arg1=0")}, [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  if (outcome.output.find("io_uring refused") != std::string::npos) GTEST_SKIP() << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("[io_uring] buffers not registered: Cannot allocate memory"));
}

TEST_F(DiskFaultTest, WithoutRegisteredFilesItIsSaid) {
  if (!direct_here()) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  RUN_OR_SKIP(outcome, {parse_fault("io_uring_register=EMFILE,arg1=2")}, [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  if (outcome.output.find("io_uring refused") != std::string::npos) GTEST_SKIP() << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("[io_uring, registered buffers] files not registered: Too many open files"));
}

// Becomes a user without privileges where we are root.
bool drop_privileges() {
  if (::geteuid() != 0) return true;
  return ::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0;
}

TEST_F(DiskFaultTest, TheMemlockLimitIsNamed) {
  if (!direct_here()) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
  RUN_OR_SKIP(outcome, {}, [&] {
    const rlimit limit{65536, 65536};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || !drop_privileges()) return kSkip;
    return read_all();
  });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  if (outcome.output.find("io_uring refused") != std::string::npos) GTEST_SKIP() << outcome.output;
  EXPECT_THAT(outcome.output,
              HasSubstr("[io_uring] buffers not registered: Cannot allocate memory (the memlock limit is "
                        "64 KiB, ulimit -l raises it)"));
}

TEST_F(DiskFaultTest, WithoutODirectThePageCache) {
  faults::Fault refuse = parse_fault("openat=EINVAL");
  refuse.argument = 2;
  refuse.value = O_RDONLY | O_DIRECT | O_CLOEXEC;
  RUN_OR_SKIP(outcome, {refuse}, [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output,
              HasSubstr("[threads, page cache] " + path_ + " through the page cache, O_DIRECT refused: "));
}

TEST_F(DiskFaultTest, ODirectThatOpensButDoesNotRead) {
  if (!direct_here()) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  RUN_OR_SKIP(outcome, {parse_fault("pread64=EINVAL,times=1,path=model.gguf")}, [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.injected, 1u);
  EXPECT_THAT(outcome.output, HasSubstr("[threads, page cache] " + path_ +
                                        " through the page cache, O_DIRECT refused: Invalid argument"));
}

TEST_F(DiskFaultTest, AFileThatCannotBeReadAtAllIsNamed) {
  RUN_OR_SKIP(outcome, {parse_fault("pread64=EIO,path=model.gguf")}, [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("cannot read " + path_ + " at 0: Input/output error"));
}

TEST_F(DiskFaultTest, ABadSectorIsNamedWithItsPlace) {
  RUN_OR_SKIP(outcome, {parse_fault("io_uring_setup=EPERM"), parse_fault("pread64=EIO,path=model.gguf,from=983040")},
              [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("cannot read " + path_ + " at 983040: Input/output error"));
}

TEST_F(DiskFaultTest, InterruptionsDoNotShow) {
  RUN_OR_SKIP(outcome,
              {parse_fault("io_uring_setup=EPERM"), parse_fault("pread64=EINTR,path=model.gguf,after=3,times=5"),
               parse_fault("pread64=EAGAIN,path=model.gguf,after=2,times=5")},
              [&] { return read_all(); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.injected, direct_here() ? 12u : 10u);
}

int reserve_one(const std::string& folder) {
  const File file = File::make_unnamed(folder, kBytes);
  struct stat info {};
  if (::fstat(file.descriptor(), &info) != 0) return 2;
  std::printf("links %u mode %o bytes %lld\n", static_cast<unsigned>(info.st_nlink), info.st_mode & 0777,
              static_cast<long long>(info.st_size));
  std::string got(16, '?');
  file.read(kBytes - 16, std::as_writable_bytes(std::span(got)));
  return got == std::string(16, '\0') ? 0 : 3;
}

TEST_F(DiskFaultTest, WithoutUnnamedFilesTheNameIsGoneAtOnce) {
  faults::Fault refuse = parse_fault("openat=EOPNOTSUPP");
  refuse.argument = 2;
  refuse.value = O_TMPFILE | O_RDWR | O_CLOEXEC;
  RUN_OR_SKIP(outcome, {refuse}, [&] { return reserve_one(folder_); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.injected, 1u);
  EXPECT_THAT(outcome.output, HasSubstr("links 0 mode 600 bytes 1048576"));
  EXPECT_EQ(entries(), 1u);  // the model
}

TEST_F(DiskFaultTest, WithoutReservationTheSizeIsSet) {
  RUN_OR_SKIP(outcome, {parse_fault("fallocate=EINTR,times=2"), parse_fault("fallocate=EOPNOTSUPP")},
              [&] { return reserve_one(folder_); });
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("links 0 mode 600 bytes 1048576"));
}

TEST_F(DiskFaultTest, AFullDriveIsToldWithTheNumbers) {
  for (const std::string error : {"ENOSPC", "EDQUOT"}) {
    RUN_OR_SKIP(outcome, {parse_fault("fallocate=" + error)}, [&] { return reserve_one(folder_); });
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.output,
                AllOf(HasSubstr("no space left for 1048576 bytes in " + folder_ + ": "), HasSubstr(" bytes are free")));
  }
}

TEST_F(DiskFaultTest, NothingIsLeftAfterAKill) {
  const Outcome outcome = faults::run({}, [&] {
    const File file = File::make_unnamed(folder_, kBytes);
    const auto queue = DiskQueue::open({&file}, {{memory_, kBytes}}, {64 << 10, 4});
    const DiskRequest request{0, 0, kBytes, memory_};
    queue->write({&request, 1});
    ::raise(SIGKILL);
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 128 + SIGKILL);
  EXPECT_EQ(entries(), 1u);
}

void put_line(const char* path, const std::string& line) { std::ofstream(path) << line; }

// Mounts a file system of a megabyte that only this process sees; as root of a user name space where we are not root.
bool mount_small(const std::string& folder) {
  const unsigned user = ::geteuid(), group = ::getegid();
  if (::unshare(user == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  if (user != 0) {
    put_line("/proc/self/uid_map", "0 " + std::to_string(user) + " 1");
    put_line("/proc/self/setgroups", "deny");
    put_line("/proc/self/gid_map", "0 " + std::to_string(group) + " 1");
  }
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("none", folder.c_str(), "tmpfs", 0, "size=1M") == 0;
}

// A drive that fills up while it is written, for real.
TEST_F(DiskFaultTest, SpaceThatEndsWhileWritingIsNamed) {
  RUN_OR_SKIP(outcome, {parse_fault("fallocate=EOPNOTSUPP")}, [&] {
    if (!mount_small(folder_)) {
      std::printf("no file system can be mounted here: %s", strerror(errno));
      return kSkip;
    }
    const File file = File::make_unnamed(folder_, kBytes / 2);
    const auto queue = DiskQueue::open({&file}, {{memory_, kBytes}}, {64 << 10, 4});
    std::ofstream(folder_ + "/other", std::ios::binary) << std::string(kBytes * 3 / 4, 'x');
    const DiskRequest request{0, 0, kBytes / 2, memory_};
    queue->write({&request, 1}).wait();
    queue->check();
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("no space left while writing unnamed file in " + folder_ + " at "),
                                    HasSubstr("No space left on device")));
}

TEST_F(DiskFaultTest, WhatThisUserMayNotTouchIsNamed) {
  ASSERT_EQ(::chmod(path_.c_str(), 0), 0);
  ASSERT_EQ(::chmod(folder_.c_str(), 0555), 0);
  const auto as_nobody = [](const std::function<void()>& body) {
    return faults::run({}, [&] {
      if (!drop_privileges()) return kSkip;
      body();
      return 0;
    });
  };
  const Outcome reading = as_nobody([&] { File::open_read(path_); });
  if (reading.exit_code == kSkip) GTEST_SKIP() << "privileges cannot be dropped here";
  EXPECT_EQ(reading.exit_code, 1);
  EXPECT_THAT(reading.output, HasSubstr("cannot open " + path_ + ": Permission denied"));
  const Outcome writing = as_nobody([&] { File::make_unnamed(folder_, 1); });
  EXPECT_EQ(writing.exit_code, 1);
  EXPECT_THAT(writing.output, HasSubstr("cannot create a file in " + folder_ + ": Permission denied"));
  ::chmod(folder_.c_str(), 0700);
}

TEST(Faults, RulesAreReadAndMistakesNamed) {
  const faults::Fault fault = parse_fault("pread64=EIO,path=.gguf,from=0x1000,after=2,times=3,arg1=7");
  EXPECT_EQ(fault.call, "pread64");
  EXPECT_EQ(fault.error, EIO);
  EXPECT_EQ(fault.path, ".gguf");
  EXPECT_EQ(fault.from, 4096u);
  EXPECT_EQ(fault.after, 2u);
  EXPECT_EQ(fault.times, 3u);
  EXPECT_EQ(fault.argument, 1);
  EXPECT_EQ(fault.value, 7u);
  for (const std::string wrong :
       {"nothing=EIO", "pread64=EWHAT", "pread64", "pread64=EIO,colour=red", "pread64=EIO,arg9=1"}) {
    EXPECT_THROW(parse_fault(wrong), std::invalid_argument) << wrong;
  }
}

}  // namespace
}  // namespace spillway
