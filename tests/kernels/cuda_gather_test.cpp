// Rows gathered from pinned host memory and from device memory.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "tests/kernels/cuda_emulated.h"

namespace spillway {
namespace {

class CudaGatherTest : public CudaEmulated {
 protected:
  // `count` rows of a pool of `pool_rows`, some of them more than once.
  void compare(uint32_t row_bytes, int pool_rows, int count, bool from_host) {
    SCOPED_TRACE(testing::Message() << count << " rows of " << row_bytes << " bytes");
    DeviceBytes pool(table_, uint64_t{row_bytes} * pool_rows), out(table_, uint64_t{row_bytes} * count + 16);
    DeviceBytes rows(table_, count * sizeof(int32_t));
    std::mt19937 random(row_bytes + count);
    for (uint64_t i = 0; i < pool.bytes(); i++) pool.host()[i] = static_cast<std::byte>(random());
    std::vector<int32_t> wanted(count);
    for (int32_t& row : wanted) row = static_cast<int32_t>(random() % pool_rows);
    if (count > 1) wanted[0] = pool_rows - 1;
    if (count > 0) std::memcpy(rows.host(), wanted.data(), rows.bytes());
    std::memset(out.host(), 0x5a, out.bytes());
    for (DeviceBytes* each : {&pool, &rows, &out}) each->upload(stream_);
    const CudaGather arguments = {.from = from_host ? pool.host() : pool.device(),
                                  .rows = reinterpret_cast<const int32_t*>(rows.device()),
                                  .count = count,
                                  .row_bytes = row_bytes,
                                  .to = out.device()};
    expect_fine(table_.gather(stream_, &arguments));
    out.download(stream_);
    for (int i = 0; i < count; i++) {
      const std::byte* source = pool.host() + uint64_t{row_bytes} * wanted[i];
      ASSERT_EQ(std::memcmp(out.host() + uint64_t{row_bytes} * i, source, row_bytes), 0) << "row " << i;
    }
    for (uint64_t i = out.bytes() - 16; i < out.bytes(); i++)
      ASSERT_EQ(out.host()[i], std::byte{0x5a}) << "past the end";
  }
};

TEST_F(CudaGatherTest, BringsTheRowsAskedFor) {
  for (const uint32_t row_bytes : {16, 32, 48, 64, 576, 4096}) {
    for (const int count : {1, 7, 65}) {
      compare(row_bytes, 97, count, true);
      compare(row_bytes, 97, count, false);
    }
  }
  compare(32, 5, 1030, true);  // more than a block of threads moves
}

TEST_F(CudaGatherTest, NoRows) { compare(32, 5, 0, true); }

}  // namespace
}  // namespace spillway
