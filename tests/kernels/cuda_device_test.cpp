// The CUDA device over the emulated table: memory that is refused, errors that surface late, waiting across timelines.
#include "kernels/cuda_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "memory/pending_events.h"
#include "tests/support/cuda_emulation/runtime.h"

namespace spillway {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

class CudaDeviceTest : public testing::Test {
 protected:
  void SetUp() override { emulation::restart(1); }

  std::unique_ptr<CudaDevice> device() { return std::make_unique<CudaDevice>(nullptr, *spillway_cuda_table(), 0); }
};

TEST_F(CudaDeviceTest, SaysWhatItIs) {
  const auto gpu = device();
  EXPECT_EQ(gpu->kind(), DeviceKind::cuda);
  EXPECT_THAT(gpu->name(), HasSubstr("emulated"));
  EXPECT_TRUE(gpu->emulated());
  EXPECT_FALSE(gpu->host_addressable());
  EXPECT_GT(gpu->overhead_bytes(), 0u) << "the context takes memory";
}

TEST_F(CudaDeviceTest, ADeviceThatTheModuleHasNoCodeForIsRefused) {
  emulation::set_presence(emulation::Presence::no_code);
  try {
    device();
    FAIL() << "its first kernel would have failed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), HasSubstr("no kernel image"));
  }
}

TEST_F(CudaDeviceTest, MemoryThatIsNotThereIsRefusedWithNumbers) {
  const auto gpu = device();
  const uint64_t before = gpu->free_bytes();
  emulation::take_device_memory(before - 3 * kMiB);
  try {
    gpu->reserve(5 * kMiB);
    FAIL() << "more was reserved than there is";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::fit);
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(5 * kMiB)));
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(gpu->free_bytes()) + " bytes are free"));
  }
}

// What cannot be pinned is used all the same, and said; a copy may cross the border between the two.
TEST_F(CudaDeviceTest, PinsWhatTheSystemAllows) {
  constexpr uint64_t kBytes = 40 * kMiB;
  for (const bool limited : {false, true}) {
    emulation::restart(2);
    if (limited) emulation::limit_pinned(20 * kMiB);
    const auto gpu = device();
    std::byte* host = gpu->reserve_host(kBytes);
    std::byte* there = gpu->reserve(kBytes);
    if (limited) {
      EXPECT_THAT(gpu->host_memory_report(), HasSubstr("20 MiB could not be pinned (out of memory)"));
    } else {
      EXPECT_EQ(gpu->host_memory_report(), "");
    }
    {
      const auto copies = gpu->make_copy_stream("copies", 0);
      for (uint64_t i = 0; i < kBytes; i += 4096) host[i] = static_cast<std::byte>(i / 4096 % 251);
      copies->copy(there, host, kBytes);
      copies->synchronize();
      std::memset(host, 0, kBytes);
      copies->copy(host, there, kBytes);
      copies->synchronize();
    }
    for (uint64_t i = 0; i < kBytes; i += 4096) ASSERT_EQ(host[i], static_cast<std::byte>(i / 4096 % 251)) << i;
    gpu->release(there, kBytes);
    gpu->release_host(host, kBytes);
  }
}

// Kernels read pinned memory alone: runs from other memory are copied, whether a list of the others can be pinned or
// not.
TEST_F(CudaDeviceTest, GathersFromWhatIsNotPinned) {
  constexpr uint64_t kBytes = 40 * kMiB, kRun = 4096;
  for (const uint64_t limit : {20 * kMiB, 21 * kMiB}) {
    emulation::restart(2);
    emulation::limit_pinned(limit);
    const auto gpu = device();
    std::byte* host = gpu->reserve_host(kBytes);
    std::byte* there = gpu->reserve(kBytes);
    for (uint64_t i = 0; i < kBytes; i += 16) host[i] = static_cast<std::byte>(i / 16 % 251);
    {
      const auto copies = gpu->make_copy_stream("copies", 0);
      std::vector<GatherRun> runs;
      for (uint64_t i = kRun / 2; i + kRun <= kBytes; i += 16 * kRun) runs.push_back({there + i, host + i, kRun});
      runs.push_back({there + 20 * kMiB - kRun / 2, host + 20 * kMiB - kRun / 2, kRun});  // over the border
      copies->gather(runs);
      copies->synchronize();
      const std::vector<std::byte> before(host, host + kBytes);
      std::memset(host, 0, kBytes);
      copies->copy(host, there, kBytes);
      copies->synchronize();
      for (const GatherRun& run : runs) {
        const auto at = static_cast<size_t>(run.from - host);
        ASSERT_EQ(std::memcmp(host + at, before.data() + at, kRun), 0) << at;
      }
    }
    gpu->release(there, kBytes);
    gpu->release_host(host, kBytes);
  }
}

TEST_F(CudaDeviceTest, ErrorsSurfaceWhereAStreamIsSynchronised) {
  const auto gpu = device();
  std::byte* block = gpu->reserve(kMiB);
  const uint64_t scratch = gpu->ops().scratch_bytes({}, 1);
  std::byte* scratch_block = gpu->reserve(scratch);
  gpu->ops().set_scratch({}, scratch_block, scratch);
  {
    const auto compute = gpu->make_compute_stream("compute");
    const auto copies = gpu->make_copy_stream("copies", 0);
    const AttendShape shape{{DType::f16, 1, 10}, 1, 1.0f};  // heads of 10 elements have no kernel
    const SpanTask task{};
    gpu->ops().attend(*compute, View::dense(block, DType::f32, 1, 10), shape, {&task, 1},
                      View::dense(block + 4096, DType::f32, 1, attn_state_floats(10)));
    const Event after = compute->record();
    after.wait();
    EXPECT_TRUE(after.done()) << "what failed is done too";
    try {
      compute->synchronize();
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      EXPECT_STREQ(error.what(), "cuda:0 emulated: attend: operation not supported");
    }
    compute->synchronize();  // afresh
    copies->synchronize();
  }
  gpu->release(scratch_block, scratch);
  gpu->release(block, kMiB);
}

TEST_F(CudaDeviceTest, EventsOutliveTheirRing) {
  const auto gpu = device();
  std::byte* block = gpu->reserve(4096);
  {
    const auto stream = gpu->make_copy_stream("copies", 0);
    std::vector<Event> events;
    for (int i = 0; i < 3000; i++) {
      stream->copy(block, block + 64, 64);
      events.push_back(stream->record());
      EXPECT_EQ(stream->record().ticket, events.back().ticket) << "nothing new, no new ticket";
    }
    stream->synchronize();
    for (const Event& event : events) ASSERT_TRUE(event.done());
  }
  gpu->release(block, 4096);
}

// The ways in which a compute stream learns that bytes have come, in many orders of the streams.
TEST_F(CudaDeviceTest, WaitsAcrossStreamsAndTimelines) {
  for (uint64_t seed = 1; seed <= 40; seed++) {
    emulation::restart(seed);
    const auto gpu = device();
    std::byte* host = gpu->reserve_host(4096);
    std::byte* there = gpu->reserve(8192);
    std::memset(host, 7, 2048);
    {
      PendingEvents pending;
      const auto compute = gpu->make_compute_stream("compute");
      const auto copies = gpu->make_copy_stream("copies", 0);
      copies->copy(there, host, 1024);
      const Event straight = copies->record();
      EXPECT_TRUE(compute->orders(straight));
      compute->wait_for(straight);
      const Event promised = pending.promise();
      EXPECT_FALSE(compute->orders(promised));
      std::thread arrive([&] {  // as bytes from disk do
        std::this_thread::sleep_for(std::chrono::microseconds(seed * 50));
        copies->copy(there + 1024, host + 1024, 1024);
        pending.fulfil(promised.ticket, copies->record());
      });
      compute->wait_for(promised);
      arrive.join();
      compute->copy(there + 4096, there, 2048);
      compute->copy(host + 2048, there + 4096, 2048);
      compute->synchronize();
      for (int i = 0; i < 2048; i++) ASSERT_EQ(host[2048 + i], std::byte{7}) << seed << ": " << i;
    }
    gpu->release(there, 8192);
    gpu->release_host(host, 4096);
  }
}

}  // namespace
}  // namespace spillway
