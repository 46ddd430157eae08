#include "kernels/device.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/ops.h"

namespace spillway {
namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;

TEST(ReferenceDevice, SaysWhatItIs) {
  const auto device = make_reference_device();
  EXPECT_EQ(device->kind(), DeviceKind::cpu);
  EXPECT_NE(device->name().find("reference"), std::string::npos);
  EXPECT_STREQ(device->ops().name(), "reference");
  EXPECT_TRUE(device->host_addressable());
  EXPECT_GT(device->free_bytes(), kHugePageBytes);
}

TEST(ReferenceDevice, ReservesAlignedZeroedBlocks) {
  const auto device = make_reference_device();
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{4097}, kHugePageBytes - 1, kHugePageBytes, 3 * kHugePageBytes + 5}) {
    std::byte* block = device->reserve(bytes);
    std::byte* host = device->reserve_host(bytes);
    const uint64_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 4096;
    EXPECT_EQ(reinterpret_cast<uint64_t>(block) % alignment, 0u) << bytes;
    EXPECT_EQ(reinterpret_cast<uint64_t>(host) % alignment, 0u) << bytes;
    EXPECT_EQ(block[0], std::byte{0});
    EXPECT_EQ(block[bytes - 1], std::byte{0});
    std::memset(block, 1, bytes);
    std::memset(host, 2, bytes);
    EXPECT_EQ(block[bytes - 1], std::byte{1});
    device->release(block, bytes);
    device->release_host(host, bytes);
  }
}

TEST(ReferenceDevice, RefusesWhatCannotBeHadWithTheNumbers) {
  const auto device = make_reference_device();
  for (const uint64_t bytes : {uint64_t{1} << 60, UINT64_MAX}) {
    try {
      device->reserve(bytes);
      FAIL() << bytes << " bytes were given";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::fit);
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("free"), std::string::npos) << error.what();
    }
  }
}

TEST(ReferenceDevice, StreamsCopyBetweenItsMemories) {
  const auto device = make_reference_device();
  std::byte* block = device->reserve(kHugePageBytes);
  std::byte* host = device->reserve_host(kHugePageBytes);
  std::memset(host, 42, kHugePageBytes);
  {
    const auto copies = device->make_copy_stream("copies", 8e9);
    const auto compute = device->make_compute_stream("compute");
    EXPECT_EQ(copies->name(), "copies");
    copies->copy(block, host, kHugePageBytes);
    compute->wait_for(copies->record());
    compute->copy(host + 1, block, 1);
    compute->synchronize();
  }
  EXPECT_EQ(std::memcmp(block, host, kHugePageBytes), 0);
  device->release(block, kHugePageBytes);
  device->release_host(host, kHugePageBytes);
}

TEST(CpuDevice, SaysWhatItIs) {
  const auto one = make_cpu_device({.threads = 1, .isa = CpuIsa::scalar});
  EXPECT_EQ(one->kind(), DeviceKind::cpu);
  EXPECT_TRUE(one->name().ends_with(", scalar kernels, 1 thread")) << one->name();
  const auto three = make_cpu_device({.threads = 3, .isa = CpuIsa::best});
  EXPECT_TRUE(three->name().ends_with(", 3 threads")) << three->name();
  EXPECT_EQ(three->name().find("best"), std::string::npos) << "the name says which kernels run";
}

TEST(CpuDevice, RefusesThreadsWithoutSense) {
  for (const int threads : {-1, 4097, INT_MIN}) {
    try {
      make_cpu_device({.threads = threads, .isa = CpuIsa::scalar});
      FAIL() << threads << " threads were taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_NE(std::string(error.what()).find(std::to_string(threads)), std::string::npos) << error.what();
    }
  }
}

// Every instruction set is either run or refused by name; what is refused is wider than the best.
TEST(CpuDevice, RefusesInstructionsThatThisMachineLacks) {
  const CpuIsa widest = widest_isa();
  EXPECT_NE(widest, CpuIsa::best);
  for (const CpuIsa isa : {CpuIsa::scalar, CpuIsa::avx2, CpuIsa::avx512}) {
    if (isa <= widest) {
      EXPECT_NE(make_cpu_device({.threads = 1, .isa = isa}), nullptr);
    } else {
      EXPECT_THROW(make_cpu_device({.threads = 1, .isa = isa}), Error);
    }
  }
}

}  // namespace
}  // namespace spillway
