// How long a CUDA stream that computes stands still, by what it waits for.
#include <gtest/gtest.h>

#include <thread>

#include "kernels/trace.h"
#include "kernels/wait_clock.h"
#include "memory/pending_events.h"
#include "tests/support/gpu_under_test.h"

namespace spillway {
namespace {

constexpr uint8_t kLate = 5, kInTime = 6, kMany = 7;
constexpr int64_t kLateness = 40'000'000;  // ns
constexpr int kTimes = 1500;               // more than are remembered at once

class CudaWaitMeterTest : public ::testing::Test {
 protected:
  CudaWaitMeterTest() {
    begin_on_gpu_under_test(1);
    gpu_ = gpu_under_test();
    host_ = gpu_->reserve_host(4096);
    there_ = gpu_->reserve(4096);
    compute_ = gpu_->make_compute_stream("compute");
    copies_ = gpu_->make_copy_stream("copies", 0);
  }
  ~CudaWaitMeterTest() override {
    compute_.reset();
    copies_.reset();
    gpu_->release(there_, 4096);
    gpu_->release_host(host_, 4096);
  }

  void copy(Stream& stream) { stream.copy(there_, host_, 256); }
  int64_t waited(uint8_t arrival) const { return compute_->waits()->nanoseconds(arrival); }

  std::unique_ptr<Device> gpu_;
  std::byte* host_ = nullptr;
  std::byte* there_ = nullptr;
  std::unique_ptr<Stream> compute_, copies_;
};

TEST_F(CudaWaitMeterTest, WhatIsLateIsCountedAndWhatIsThereIsNot) {
  EXPECT_EQ(copies_->waits(), nullptr) << "its waits are nobody's loss";
  copy(*copies_);
  copies_->synchronize();
  Event there = copies_->record();
  there.arrival = kInTime;
  PendingEvents pending;
  Event promised = pending.promise();
  promised.arrival = kLate;
  const int64_t begin = Trace::now();
  compute_->wait_for(there);
  std::thread arrive([&] {
    for (const int64_t from = Trace::now(); Trace::now() - from < kLateness;) {
      copy(*copies_);  // so that the emulation's time passes
      copies_->synchronize();
    }
    pending.fulfil(promised.ticket, copies_->record());
  });
  compute_->wait_for(promised);
  arrive.join();
  copy(*compute_);
  compute_->synchronize();
  const int64_t length = Trace::now() - begin;
  EXPECT_GT(waited(kLate), length / 2);
  EXPECT_LE(waited(kLate), length);
  EXPECT_EQ(waited(kInTime), 0);
}

TEST_F(CudaWaitMeterTest, ManyWaitsAreWithinTheTimeThatTheyTook) {
  const int64_t begin = Trace::now();
  for (int i = 0; i < kTimes; ++i) {
    copy(*copies_);
    Event event = copies_->record();
    event.arrival = kMany;
    compute_->wait_for(event);
    copy(*compute_);
  }
  compute_->synchronize();
  EXPECT_GT(waited(kMany), 0);
  EXPECT_LE(waited(kMany), Trace::now() - begin);
}

}  // namespace
}  // namespace spillway
