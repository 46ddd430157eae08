#include "memory/format_bytes.h"

#include <gtest/gtest.h>

namespace spillway {
namespace {

TEST(FormatBytesTest, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(800ull << 20), "800 MiB");
  EXPECT_EQ(format_bytes((1ull << 30) - 1), "1 GiB");
  EXPECT_EQ(format_bytes((6ull << 30) + (1ull << 28)), "6.25 GiB");
  EXPECT_EQ(format_bytes(12885ull << 20), "12.6 GiB");
  EXPECT_EQ(format_bytes(1000ull << 40), "1000 TiB");
  EXPECT_EQ(format_bytes(UINT64_MAX), "16 EiB");
}

TEST(FormatBytesTest, WhatWouldReadAlike) {
  EXPECT_EQ(format_bytes_beside(4ull << 30, 5ull << 30), "4 GiB");
  EXPECT_EQ(format_bytes_beside(4ull << 30, (4ull << 30) - 1), "4 GiB (4294967296 bytes)");
}

TEST(FormatBytesTest, Speed) {
  EXPECT_EQ(format_speed(0), "0 B/s");
  EXPECT_EQ(format_speed(750e6), "750 MB/s");
  EXPECT_EQ(format_speed(999.7e6), "1 GB/s");
  EXPECT_EQ(format_speed(23.07e9), "23.1 GB/s");
}

}  // namespace
}  // namespace spillway
