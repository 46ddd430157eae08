// The emulation itself: what it computes as CUDA would, and the mistakes that it must find. The kernels here are wrong
// on purpose, each in one way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/module.h"
#include "tests/support/device_matrix.h"

namespace spillway::cuda {
namespace {

using emulation::Fault;

constexpr int kThreads = 64;

class CudaEmulation : public testing::Test {
 protected:
  void SetUp() override {
    emulation::restart(1);
    expect_fine(table_.make_stream(&stream_));
    expect_fine(table_.reserve(kThreads * sizeof(int), reinterpret_cast<void**>(&out_)));
    expect_fine(table_.reserve_host(kThreads * sizeof(int), reinterpret_cast<void**>(&host_)));
  }
  void TearDown() override { emulation::abandon(); }

  template <typename Kernel>
  void start(Kernel* kernel, size_t dynamic_bytes = 0, dim3 block = dim3(kThreads)) {
    ASSERT_EQ(launch(kernel, dim3(1), block, dynamic_bytes, static_cast<cudaStream_t>(stream_), out_), cudaSuccess);
  }
  template <typename Kernel>
  std::vector<int> result_of(Kernel* kernel, dim3 block = dim3(kThreads)) {
    start(kernel, 0, block);
    expect_fine(table_.copy(stream_, host_, out_, kThreads * sizeof(int)));
    expect_fine(table_.synchronize(stream_));
    return {host_, host_ + kThreads};
  }
  // What the fault that the kernel meets says.
  template <typename Kernel>
  std::string fault_of(Kernel* kernel, size_t dynamic_bytes = 0, dim3 block = dim3(kThreads)) {
    start(kernel, dynamic_bytes, block);
    try {
      table_.synchronize(stream_);
    } catch (const Fault& fault) {
      return fault.what();
    }
    return "no fault";
  }

  const SpillwayCudaTable& table_ = *spillway_cuda_table();
  CudaStream stream_ = nullptr;
  int* out_ = nullptr;
  int* host_ = nullptr;
};

MATCHER_P(Says, what, "") { return arg.find(what) != std::string::npos; }

__device__ int me() { return static_cast<int>(threadIdx.x); }

// ---- what works

__global__ void reverse_through_shared(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  values[me()] = me();
  __syncthreads();
  out[me()] = values[kThreads - 1 - me()];
}

__global__ void exchange_in_warps(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  values[me()] = 10 * me();
  __syncwarp();
  out[me()] = values[me() ^ 1];
  __syncwarp();
  values[me() ^ 2] = 0;
}

__global__ void shuffles(int* out) {
  const int lane = lane_index();
  int value = __shfl_xor_sync(kAllLanes, lane, 3) == (lane ^ 3);
  value += __shfl_sync(kAllLanes, lane, 7) == 7;
  value += __shfl_down_sync(kAllLanes, lane, 4) == (lane < 28 ? lane + 4 : lane);
  value += __shfl_up_sync(kAllLanes, lane, 4) == (lane >= 4 ? lane - 4 : lane);
  value += __ballot_sync(kAllLanes, lane % 2) == 0xaaaaaaaau;
  value += __any_sync(kAllLanes, lane == 9) && !__all_sync(kAllLanes, lane == 9);
  if (lane < 8) value += __shfl_xor_sync(0xffu, lane, 1) == (lane ^ 1);
  out[me()] = value;
}

__global__ void sums_of_many(int* out) {
  float plain[8], shared_out[8];
  const int lane = lane_index();
  for (int i = 0; i < 8; i++) plain[i] = shared_out[i] = 1.0f / static_cast<float>(1 + i * 32 + lane);
  lane_sums<8, 16>(shared_out, lane);
  const int index = summed_index<8, 16>(lane);
  float wanted = 0.0f;
  for (int i = 0; i < 8; i++) {
    const float sum = lane_sum<16>(plain[i]);
    if (i == index) wanted = sum;
  }
  out[me()] = wanted == shared_out[0] ? index + 100 * writes_sum<8, 16>(lane) : -1;
}

TEST_F(CudaEmulation, SharedMemoryAndBarriers) {
  std::vector<int> wanted(kThreads);
  std::iota(wanted.rbegin(), wanted.rend(), 0);
  EXPECT_EQ(result_of(reverse_through_shared), wanted);
  for (int i = 0; i < kThreads; i++) wanted[i] = 10 * (i ^ 1);
  EXPECT_EQ(result_of(exchange_in_warps), wanted);
}

TEST_F(CudaEmulation, ShufflesAndVotes) {
  const std::vector<int> right = result_of(shuffles);
  for (int i = 0; i < kThreads; i++) EXPECT_EQ(right[i], i % 32 < 8 ? 7 : 6) << i;
}

TEST_F(CudaEmulation, SumsOverLanesHaveOneOrder) {
  std::vector<int> writers(8);
  const std::vector<int> sums = result_of(sums_of_many, dim3(32));
  for (int lane = 0; lane < 32; lane++) {
    ASSERT_GE(sums[lane], 0) << "another order of additions in lane " << lane;
    if (sums[lane] >= 100) writers[sums[lane] - 100]++;
  }
  EXPECT_EQ(writers, std::vector<int>(8, 1));
}

TEST_F(CudaEmulation, ExponentialIsAccurate) {
  for (float x = 0.0f; x > -87.0f; x -= 0.0137f) {
    const double wanted = std::exp(static_cast<double>(x));
    ASSERT_NEAR(exp_of_negative(x), wanted, 1.5e-7 * wanted) << x;
  }
  EXPECT_EQ(exp_of_negative(0.0f), 1.0f);
  EXPECT_EQ(exp_of_negative(-INFINITY), 0.0f);
  EXPECT_EQ(exp_of_negative(-1000.0f), 0.0f);
  EXPECT_TRUE(std::isnan(exp_of_negative(NAN)));
}

// ---- mistakes within a block

__device__ void clear(const Shared<int>& values) {
  values[me()] = 0;
  __syncthreads();
}

__global__ void no_barrier(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  clear(values);
  values[me()] = me();
  out[me()] = values[kThreads - 1 - me()];
}

__global__ void no_barrier_before_reuse(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  values[me()] = me();
  __syncthreads();
  out[me()] = values[kThreads - 1 - me()];
  values[me()] = 0;
}

__global__ void warp_barrier_between_warps(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  clear(values);
  values[me()] = me();
  __syncwarp();
  out[me()] = values[kThreads - 1 - me()];
}

// A shuffle orders no memory.
__global__ void no_warp_barrier(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  clear(values);
  values[me()] = me();
  const int zero = __shfl_xor_sync(kAllLanes, 0, 1);
  out[me()] = values[me() ^ 1] + zero;
}

__global__ void two_writers(int*) {
  SPILLWAY_SHARED(int, value, 1);
  value[0] = me();
}

__global__ void read_before_written(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  if (me() != 3) values[me()] = me();
  __syncthreads();
  out[me()] = values[me()];
}

__global__ void one_past_the_end(int* out) {
  SPILLWAY_SHARED(int, values, kThreads);
  values[me() + 1] = me();
  __syncthreads();
  out[me()] = values[me()];
}

__global__ void past_dynamic_memory(int* out) {
  const Shared<int> values = dynamic_shared<int>(0, kThreads + 1);
  values[me()] = me();
  out[me()] = values[me()];
}

__global__ void barrier_for_some(int* out) {
  if (me() < 40) __syncthreads();
  out[me()] = 0;
}

__global__ void shuffle_for_some(int* out) {
  if (lane_index() < 31) out[me()] = __shfl_xor_sync(kAllLanes, me(), 1);
}

__global__ void two_masks(int* out) {
  out[me()] = __shfl_xor_sync(lane_index() < 16 ? kAllLanes : 0xffff0000u, me(), 1);
}

__global__ void lane_outside_the_mask(int* out) {
  if (lane_index() < 4) out[me()] = __shfl_xor_sync(0xfu, me(), 8);
}

TEST_F(CudaEmulation, FindsAMissingBarrier) {
  EXPECT_THAT(fault_of(no_barrier), Says("values in no_barrier: byte"));
  EXPECT_THAT(fault_of(no_barrier_before_reuse), Says("no barrier between"));
  EXPECT_THAT(fault_of(warp_barrier_between_warps), Says("no barrier between"));
  EXPECT_THAT(fault_of(no_warp_barrier), Says("no barrier between"));
  EXPECT_THAT(fault_of(two_writers), Says("no barrier between"));
}

TEST_F(CudaEmulation, FindsAMissingBarrierInEveryOrder) {
  for (uint64_t seed = 1; seed <= 20; seed++) {
    emulation::abandon();
    emulation::restart(seed);
    expect_fine(table_.make_stream(&stream_));
    expect_fine(table_.reserve(kThreads * sizeof(int), reinterpret_cast<void**>(&out_)));
    EXPECT_THAT(fault_of(no_barrier), Says("no barrier between")) << seed;
    EXPECT_THAT(fault_of(no_warp_barrier), Says("no barrier between")) << seed;
    EXPECT_THAT(fault_of(reverse_through_shared), Says("no fault")) << seed;
  }
}

TEST_F(CudaEmulation, FindsWrongUseOfSharedMemory) {
  EXPECT_THAT(fault_of(read_before_written), Says("thread (3,0,0) of block (0,0,0) and was never written"));
  EXPECT_THAT(fault_of(one_past_the_end), Says("write at byte 256 of an array of 256 bytes"));
  EXPECT_THAT(fault_of(past_dynamic_memory, kThreads * sizeof(int)), Says("256 were given at launch"));
}

TEST_F(CudaEmulation, FindsThreadsThatDoNotMeet) {
  EXPECT_THAT(fault_of(barrier_for_some), Says("waits at __syncthreads"));
  EXPECT_THAT(fault_of(shuffle_for_some), Says("which has returned"));
  EXPECT_THAT(fault_of(two_masks), Says("with mask 0x"));
  EXPECT_THAT(fault_of(lane_outside_the_mask), Says("not in the mask 0xf"));
}

TEST_F(CudaEmulation, ABlockAfterAFaultIsSound) {
  EXPECT_THAT(fault_of(barrier_for_some), Says("__syncthreads"));
  EXPECT_THAT(fault_of(reverse_through_shared), Says("no fault"));
}

// ---- mistakes with memory

__global__ void write_past_the_block(int* out) { out[me() + 1] = me(); }

// A guard zone that was written to, or AddressSanitizer where it watches.
TEST_F(CudaEmulation, FindsAnIndexOffByOneInDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [this] {
    const std::string said = fault_of(write_past_the_block);
    std::fprintf(stderr, "%s\n", said.c_str());
    std::_Exit(said == "no fault" ? 0 : 1);
  };
  EXPECT_DEATH(run(), "guard zone after a block|AddressSanitizer");
}

TEST_F(CudaEmulation, FindsHostMemoryWhereDeviceMemoryBelongs) {
  int on_the_stack[kThreads];
  EXPECT_THROW(launch(write_past_the_block, dim3(1), dim3(1), 0, static_cast<cudaStream_t>(stream_), on_the_stack),
               Fault);
  EXPECT_THROW(table_.copy(stream_, out_, on_the_stack, sizeof on_the_stack), Fault);
  EXPECT_THROW(table_.copy(stream_, out_, host_, kThreads * sizeof(int) + 1), Fault);
}

TEST_F(CudaEmulation, FindsMemoryThatIsReleasedTooEarly) {
  start(reverse_through_shared);
  EXPECT_THROW(table_.release(out_), Fault);
}

// Destructors that run while a fault is thrown meet the work that it has left behind.
TEST_F(CudaEmulation, WhatAFaultTearsDownDoesNotOutshoutIt) {
  struct Owner {
    const SpillwayCudaTable& table;
    CudaStream other;
    int* block;
    ~Owner() {
      table.synchronize(other);  // runs the second wrong kernel
      table.release(block);
      table.end_stream(other);
    }
  };
  CudaStream other = nullptr;
  expect_fine(table_.make_stream(&other));
  std::string said;
  try {
    const Owner owner{table_, other, out_};
    ASSERT_EQ(launch(barrier_for_some, dim3(1), dim3(kThreads), 0, static_cast<cudaStream_t>(stream_), out_),
              cudaSuccess);
    expect_fine(table_.synchronize(stream_));
  } catch (const Fault& fault) {
    said = fault.what();
  }
  EXPECT_THAT(said, Says("waits at __syncthreads"));
}

TEST_F(CudaEmulation, FindsWhatIsLeftBehind) { EXPECT_THROW(emulation::restart(1), Fault); }

#ifdef __SANITIZE_ADDRESS__
TEST_F(CudaEmulation, TheHostCannotTouchDeviceMemory) { EXPECT_DEATH(std::printf("%d", out_[0]), "AddressSanitizer"); }
#endif

// ---- mistakes with streams

// A value goes to the device on one stream and is used on another. True if the use came first under some order.
bool goes_wrong(bool wait_for_the_copy) {
  const SpillwayCudaTable& table = *spillway_cuda_table();
  bool wrong = false;
  for (uint64_t seed = 1; seed <= 16; seed++) {
    emulation::restart(seed);
    CudaStream copies, compute;
    CudaEvent arrived;
    expect_fine(table.make_stream(&copies));
    expect_fine(table.make_stream(&compute));
    expect_fine(table.make_event(&arrived));
    {
      DeviceMatrix x(table, DType::f32, 1, 8), weight(table, DType::f32, 1, 8), out(table, DType::f32, 1, 8);
      x.fill(seed).upload(copies);
      weight.fill(3).upload(compute);
      expect_fine(table.record(arrived, copies));
      if (wait_for_the_copy) expect_fine(table.wait_for(compute, arrived));
      const CudaNorm norm = {.x = x.device(), .weight = weight.device(), .out = out.device(), .eps = 0.0f};
      expect_fine(table.norm(compute, &norm));
      out.download(compute);
      expect_fine(table.synchronize(copies));
      double squares = 0.0;
      for (int i = 0; i < 8; i++) squares += x.at(0, i) * x.at(0, i) / 8;
      for (int i = 0; i < 8; i++) {
        const double wanted = x.at(0, i) / std::sqrt(squares) * weight.at(0, i);
        wrong = wrong || std::abs(out.at(0, i) - wanted) > 1e-5;
      }
    }
    expect_fine(table.end_event(arrived));
    expect_fine(table.end_stream(copies));
    expect_fine(table.end_stream(compute));
  }
  return wrong;
}

TEST(CudaEmulationStreams, FindAMissingEventWait) {
  EXPECT_TRUE(goes_wrong(false));
  EXPECT_FALSE(goes_wrong(true));
}

TEST_F(CudaEmulation, CopiesReadTheirSourceLate) {
  host_[0] = 1;
  expect_fine(table_.copy(stream_, out_, host_, sizeof(int)));
  host_[0] = 2;  // too early: the copy has not run
  expect_fine(table_.copy(stream_, host_ + 1, out_, sizeof(int)));
  expect_fine(table_.synchronize(stream_));
  EXPECT_EQ(host_[1], 2);
}

TEST_F(CudaEmulation, EventsComeWithTime) {
  CudaEvent event;
  expect_fine(table_.make_event(&event));
  bool done = false;
  expect_fine(table_.event_done(event, &done));
  EXPECT_TRUE(done) << "never recorded";
  start(reverse_through_shared);
  expect_fine(table_.record(event, stream_));
  int asked = 0;
  do {
    expect_fine(table_.event_done(event, &done));
  } while (!done && ++asked < 100);
  EXPECT_TRUE(done);
  start(reverse_through_shared);
  expect_fine(table_.record(event, stream_));
  expect_fine(table_.event_wait(event));
  expect_fine(table_.event_done(event, &done));
  EXPECT_TRUE(done);
}

TEST_F(CudaEmulation, UnknownStreamsAreFaults) {
  EXPECT_THROW(table_.synchronize(nullptr), Fault);
  EXPECT_THROW(table_.synchronize(static_cast<CudaStream>(this)), Fault);
}

// ---- what a machine may lack

TEST_F(CudaEmulation, WithoutDriverOrDeviceTheTableSaysSo) {
  int32_t count = -1;
  EXPECT_EQ(table_.device_count(&count), nullptr);
  EXPECT_EQ(count, 1);
  CudaDeviceInfo info;
  EXPECT_EQ(table_.device_info(0, &info), nullptr);
  EXPECT_STREQ(info.name, "emulated");
  EXPECT_STREQ(table_.device_info(1, &info), "invalid device ordinal");
  emulation::set_presence(emulation::Presence::no_driver);
  EXPECT_STREQ(table_.device_count(&count), "no NVIDIA driver is installed");
  EXPECT_EQ(count, 0);
  emulation::set_presence(emulation::Presence::no_device);
  EXPECT_STREQ(table_.device_count(&count), "no CUDA-capable device is detected");
}

TEST_F(CudaEmulation, MemoryIsLimited) {
  void* block = nullptr;
  EXPECT_STREQ(table_.reserve(uint64_t{1} << 40, &block), "out of memory");
  EXPECT_EQ(block, nullptr);
}

}  // namespace
}  // namespace spillway::cuda
