// Descriptors on their way to the device: whatever is written over what, the ring holds it, and what is there already
// is not sent again.
#include "kernels/cuda_descriptors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "tests/support/gpu_under_test.h"

namespace spillway {
namespace {

constexpr uint64_t kRing = 8 << 10;

class CudaDescriptorsTest : public testing::Test {
 protected:
  void SetUp() override {
    begin_on_gpu_under_test(1);
    context_ = std::make_unique<CudaContext>(table_under_test(), 0);
    stream_ = std::make_unique<CudaDeviceStream>(*context_, "test");
    ASSERT_EQ(context_->ask(context_->table().reserve, kRing, &ring_), nullptr);
    ASSERT_EQ(context_->ask(context_->table().reserve_host, kRing, &host_), nullptr);
    descriptors_ = std::make_unique<CudaDescriptors>(*context_);
    descriptors_->set_ring(static_cast<std::byte*>(ring_), kRing);
  }
  void TearDown() override {
    stream_.reset();
    context_->ask(context_->table().release, ring_);
    context_->ask(context_->table().release_host, host_);
  }

  // What the stream's next work would read.
  std::vector<uint32_t> read(const std::byte* place, size_t words) {
    const auto at = static_cast<uint64_t>(place - static_cast<std::byte*>(ring_));
    stream_->enqueue("read", context_->table().copy, static_cast<void*>(static_cast<std::byte*>(host_) + at),
                     static_cast<const void*>(place), uint64_t{words * 4});
    stream_->synchronize();
    const auto* from = reinterpret_cast<const uint32_t*>(static_cast<std::byte*>(host_) + at);
    return {from, from + words};
  }
  void write(std::byte* place, const std::vector<uint32_t>& list) {
    descriptors_->write(place, list.data(), list.size() * sizeof(uint32_t));
  }
  uint64_t kernels_of_sending() {
    const uint64_t before = emulation::host_calls().kernels;
    descriptors_->send(*stream_);
    return emulation::host_calls().kernels - before;
  }

  std::unique_ptr<CudaContext> context_;
  std::unique_ptr<CudaDeviceStream> stream_;
  void* ring_ = nullptr;
  void* host_ = nullptr;
  std::unique_ptr<CudaDescriptors> descriptors_;
};

std::vector<uint32_t> random_list(std::mt19937& random, size_t words) {
  std::vector<uint32_t> list(words);
  for (uint32_t& word : list) word = random() % 4;  // often what is there
  return list;
}

TEST_F(CudaDescriptorsTest, TheRingHoldsWhatWasWritten) {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    if (random() % 4 == 0) descriptors_->rewind();
    struct Written {
      std::byte* place;
      std::vector<uint32_t> list;
    };
    std::vector<Written> all;
    uint64_t sum = 0;
    for (int i = 0; i < 5; ++i) {
      const size_t words = 1 + random() % (random() % 3 == 0 ? 700 : 40);
      sum += words * 4 + CudaDescriptors::kAlignment;
      if (sum > kRing / 2) break;
      std::vector<uint32_t> list = random_list(random, words);
      std::byte* place = descriptors_->room(*stream_, words * 4);
      const auto overlaps = [&](const Written& w) {
        return place < w.place + w.list.size() * 4 && w.place < place + words * 4;
      };
      std::erase_if(all, overlaps);  // the ring's begin once more
      write(place, list);
      if (random() % 3 == 0) descriptors_->send(*stream_);
      all.push_back({place, std::move(list)});
    }
    descriptors_->send(*stream_);
    for (const Written& w : all) ASSERT_EQ(read(w.place, w.list.size()), w.list) << "round " << round;
  }
}

TEST_F(CudaDescriptorsTest, WhatIsThereIsNotSentAgain) {
  if (testing_a_gpu()) GTEST_SKIP() << "calls are counted by the emulation";
  std::mt19937 random(2);
  std::vector<uint32_t> list = random_list(random, 1500);
  std::byte* place = descriptors_->room(*stream_, list.size() * 4);
  write(place, list);
  EXPECT_EQ(kernels_of_sending(), 2u) << "960 words each";
  write(place, list);
  EXPECT_EQ(kernels_of_sending(), 0u);
  for (const size_t i : {size_t{0}, size_t{700}, size_t{1499}}) list[i] += 1;
  write(place, list);
  EXPECT_EQ(kernels_of_sending(), 1u) << "a few words, wherever they lie";
  EXPECT_EQ(read(place, list.size()), list);
}

// What failed is not there, nor what came after it before anybody heard of the failure.
TEST_F(CudaDescriptorsTest, AfterAFailureEverythingIsSent) {
  const std::vector<uint32_t> before(50, 1), after(50, 2);
  std::byte* place = descriptors_->room(*stream_, before.size() * 4);
  write(place, before);
  descriptors_->send(*stream_);
  const auto broken = [](CudaStream) -> CudaProblem { return "broken"; };
  stream_->enqueue("broken", +broken);
  write(place, after);
  descriptors_->send(*stream_);
  EXPECT_THROW(stream_->synchronize(), Error);
  write(place, after);
  descriptors_->send(*stream_);
  EXPECT_EQ(read(place, after.size()), after);
}

}  // namespace
}  // namespace spillway
