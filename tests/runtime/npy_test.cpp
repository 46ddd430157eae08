#include "runtime/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "kernels/check.h"

namespace spillway {
namespace {

std::string temporary(const char* name) {
  return std::filesystem::temp_directory_path() / (std::to_string(getpid()) + name);
}

std::string read(const std::string& path) {
  std::stringstream all;
  all << std::ifstream(path, std::ios::binary).rdbuf();
  return all.str();
}

TEST(NpyTest, HeaderAndRows) {
  const std::string path = temporary("rows.npy");
  constexpr int kCols = 50000, kRows = 23;
  std::vector<float> row(kCols);
  {
    NpyWriter writer(path, kCols);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCols; ++c) row[static_cast<size_t>(c)] = static_cast<float>(r * kCols + c) * 0.5f;
      writer.append(row);
      EXPECT_FALSE(std::filesystem::exists(path));
    }
    writer.finish();
    EXPECT_EQ(writer.rows(), kRows);
  }
  const std::string bytes = read(path);
  std::filesystem::remove(path);
  ASSERT_EQ(bytes.size(), 128 + size_t{kRows} * kCols * 4);
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(bytes.substr(10, 70), "{'descr': '<f4', 'fortran_order': False, 'shape': (23, 50000), }      ");
  EXPECT_EQ(bytes[127], '\n');
  for (size_t i = 0; i < size_t{kRows} * kCols; ++i) {
    float value = 0;
    std::memcpy(&value, bytes.data() + 128 + i * 4, 4);
    ASSERT_EQ(value, static_cast<float>(i) * 0.5f);
  }
}

TEST(NpyTest, ManySmallAndOneLargePiece) {
  const std::string path = temporary("pieces.npy");
  NpyWriter writer(path, 3);
  std::vector<float> expected;
  const auto append = [&](size_t rows) {
    std::vector<float> piece(rows * 3);
    for (float& x : piece) {
      x = static_cast<float>(expected.size());
      expected.push_back(x);
    }
    writer.append(piece);
  };
  append(1);
  append(0);
  append(200000);
  for (int i = 0; i < 100000; ++i) append(1);
  writer.finish();
  const std::string bytes = read(path);
  std::filesystem::remove(path);
  ASSERT_EQ(bytes.size(), 128 + expected.size() * 4);
  EXPECT_THAT(bytes.substr(0, 128), testing::HasSubstr("(300001, 3)"));
  EXPECT_EQ(std::memcmp(bytes.data() + 128, expected.data(), expected.size() * 4), 0);
}

TEST(NpyTest, NothingIsLeftWithoutFinish) {
  const std::string path = temporary("unfinished.npy");
  {
    NpyWriter writer(path, 1);
    writer.append(std::vector<float>(1 << 20));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(NpyTest, FullDiskIsAnErrorThatNamesThePath) {
  NpyWriter writer("/dev/full", 1);
  try {
    writer.append(std::vector<float>(1 << 20));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), testing::HasSubstr("/dev/full: cannot be written: No space left"));
  }
}

}  // namespace
}  // namespace spillway
