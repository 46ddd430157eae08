#include "memory/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "kernels/check.h"
#include "memory/extent.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = (fs::temp_directory_path() / "spillway-file-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~FileTest() override { fs::remove_all(folder_); }

  std::string put(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  size_t entries() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  std::string folder_;
};

std::span<std::byte> bytes_of(std::string& text) { return std::as_writable_bytes(std::span(text)); }

template <typename F>
void expect_error(ErrorKind kind, const std::string& part, F&& run) {
  try {
    run();
    FAIL() << "nothing was thrown, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST_F(FileTest, ReadsAnyRange) {
  std::string text(100000, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  const File file = File::open_read(put("a", text));
  EXPECT_EQ(file.bytes(), text.size());
  EXPECT_GE(file.descriptor(), 0);
  for (const size_t offset : {0, 1, 4095, 4096, 99999, 100000}) {
    for (const size_t bytes : {0, 1, 513, 5000, 60000}) {
      if (offset + bytes > text.size()) continue;
      std::string got(bytes, '?');
      file.read(offset, bytes_of(got));
      EXPECT_EQ(got, text.substr(offset, bytes)) << offset << " " << bytes;
    }
  }
}

TEST_F(FileTest, PastTheEndIsNamed) {
  const std::string path = put("a", "hello");
  const File file = File::open_read(path);
  std::string into(3, '?');
  expect_error(ErrorKind::model, path, [&] { file.read(3, bytes_of(into)); });
  expect_error(ErrorKind::model, "file ends at 5, 3 bytes wanted at 3", [&] { file.read(3, bytes_of(into)); });
  expect_error(ErrorKind::model, "file ends at 5", [&] { file.read(UINT64_MAX - 1, bytes_of(into)); });
}

TEST_F(FileTest, CutWhileOpenIsNamed) {
  const std::string path = put("a", std::string(10000, 'x'));
  const File file = File::open_read(path);
  ASSERT_EQ(::truncate(path.c_str(), 6000), 0);
  std::string into(10000, '?');
  expect_error(ErrorKind::model, "file is shorter than it was: " + path + " at 6000",
               [&] { file.read(0, bytes_of(into)); });
}

TEST_F(FileTest, WhatCannotBeReadIsRefusedByName) {
  expect_error(ErrorKind::model, "no such file: " + folder_ + "/none", [&] { File::open_read(folder_ + "/none"); });
  expect_error(ErrorKind::model, "a folder, not a file: " + folder_, [&] { File::open_read(folder_); });
  const std::string empty = put("empty", "");
  expect_error(ErrorKind::model, "file is empty: " + empty, [&] { File::open_read(empty); });
  const std::string pipe = folder_ + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(ErrorKind::model, "not a regular file: " + pipe, [&] { File::open_read(pipe); });
  const std::string below = put("a", "x") + "/b";
  expect_error(ErrorKind::model, below, [&] { File::open_read(below); });
}

TEST_F(FileTest, MovesTakeTheDescriptorsAlong) {
  File file = File::open_read(put("a", "hello"));
  const int descriptor = file.descriptor();
  File moved = std::move(file);
  EXPECT_EQ(moved.descriptor(), descriptor);
  moved = File::open_read(put("b", "other"));
  std::string got(5, '?');
  moved.read(0, bytes_of(got));
  EXPECT_EQ(got, "other");
}

TEST_F(FileTest, UnnamedLeavesNoNameAndIsPrivate) {
  const File file = File::make_unnamed(folder_, 1 << 20);
  EXPECT_EQ(file.bytes(), 1u << 20);
  EXPECT_EQ(entries(), 0u);
  struct stat info {};
  ASSERT_EQ(::fstat(file.descriptor(), &info), 0);
  EXPECT_EQ(info.st_nlink, 0u);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_size, 1 << 20);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, uint64_t{1} << 20);
  EXPECT_THAT(file.path(), HasSubstr(folder_));
}

TEST_F(FileTest, UnnamedDescriptorsAreOneFile) {
  const File file = File::make_unnamed(folder_, 3 * kDiskAlign);
  if (file.direct_descriptor() < 0) GTEST_SKIP() << "O_DIRECT is refused in " << folder_;
  EXPECT_TRUE(::fcntl(file.direct_descriptor(), F_GETFL) & O_DIRECT);
  EXPECT_FALSE(::fcntl(file.descriptor(), F_GETFL) & O_DIRECT);
  std::unique_ptr<std::byte, decltype(&std::free)> page(
      static_cast<std::byte*>(std::aligned_alloc(kDiskAlign, kDiskAlign)), &std::free);
  std::memset(page.get(), 0x5a, kDiskAlign);
  ASSERT_EQ(::pwrite(file.direct_descriptor(), page.get(), kDiskAlign, kDiskAlign), static_cast<ssize_t>(kDiskAlign));
  std::string got(3 * kDiskAlign, '?');
  file.read(0, bytes_of(got));
  EXPECT_EQ(got, std::string(kDiskAlign, '\0') + std::string(kDiskAlign, '\x5a') + std::string(kDiskAlign, '\0'));
}

TEST_F(FileTest, UnnamedSaysWhyNot) {
  expect_error(ErrorKind::io, "no such folder: " + folder_ + "/none",
               [&] { File::make_unnamed(folder_ + "/none", 1); });
  const std::string path = put("a", "x");
  expect_error(ErrorKind::io, "not a folder: " + path, [&] { File::make_unnamed(path, 1); });
}

TEST_F(FileTest, MoreThanTheDriveHasIsRefusedWithTheNumbers) {
  const uint64_t bytes = uint64_t{1} << 42;  // below the largest file of ext4, above any drive tests run on
  const auto free = fs::space(folder_).available;
  if (free > bytes) GTEST_SKIP() << "this drive has more than " << bytes << " bytes free";
  expect_error(ErrorKind::io, "no space left for 4398046511104 bytes in " + folder_,
               [&] { File::make_unnamed(folder_, bytes); });
  EXPECT_EQ(entries(), 0u);
}

TEST_F(FileTest, TheLimitOnFileSizeIsAnErrorNotASignal) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error(ErrorKind::io, "the limit for one file is 65536", [&] { File::make_unnamed(folder_, 1 << 17); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
}

}  // namespace
}  // namespace spillway
