// Graphs of the fake runtime: what is captured runs when it is launched and not before, on what memory then holds; what
// may not be asked during a capture spoils it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/module.h"
#include "tests/support/device_matrix.h"

namespace spillway::cuda {
namespace {

using emulation::Fault;
using testing::HasSubstr;

__global__ void add_first_of(int* sum, const int* numbers) { *sum = 10 * *sum + *numbers; }

class CudaGraphEmulation : public testing::Test {
 protected:
  void SetUp() override {
    emulation::restart(1);
    expect_fine(table_.make_stream(&stream_));
    expect_fine(table_.make_event(&event_));
    expect_fine(table_.reserve(sizeof(int), reinterpret_cast<void**>(&sum_)));
    expect_fine(table_.reserve(sizeof(int), reinterpret_cast<void**>(&number_)));
    expect_fine(table_.reserve_host(sizeof(int), reinterpret_cast<void**>(&host_)));
    put(sum_, 0);
  }
  void TearDown() override { emulation::abandon(); }

  void put(int* there, int value) { expect_fine(table_.put(stream_, there, &value, sizeof value)); }
  void add() {
    ASSERT_EQ(launch(add_first_of, dim3(1), dim3(1), 0, static_cast<cudaStream_t>(stream_), sum_, number_),
              cudaSuccess);
  }
  int sum() {
    expect_fine(table_.copy(stream_, host_, sum_, sizeof(int)));
    expect_fine(table_.synchronize(stream_));
    return *host_;
  }
  CudaGraph graph_of(int additions) {
    CudaGraph graph = nullptr;
    expect_fine(table_.begin_capture(stream_));
    for (int i = 0; i < additions; i++) add();
    expect_fine(table_.end_capture(stream_, &graph));
    return graph;
  }

  const SpillwayCudaTable& table_ = *spillway_cuda_table();
  CudaStream stream_ = nullptr;
  CudaEvent event_ = nullptr;
  int* sum_ = nullptr;
  int* number_ = nullptr;
  int* host_ = nullptr;
};

TEST_F(CudaGraphEmulation, RunsWhenItIsLaunchedAndReadsMemoryThen) {
  put(number_, 1);
  const CudaGraph graph = graph_of(2);
  EXPECT_EQ(sum(), 0) << "what is captured does not run";
  put(number_, 3);
  expect_fine(table_.launch_graph(stream_, graph));
  put(number_, 5);
  expect_fine(table_.launch_graph(stream_, graph));
  add();
  EXPECT_EQ(sum(), 33555);
  expect_fine(table_.end_graph(graph));
}

TEST_F(CudaGraphEmulation, CallsOfTheHostAreCounted) {
  put(number_, 1);
  const auto before = emulation::host_calls();
  const CudaGraph graph = graph_of(5);
  EXPECT_EQ(emulation::host_calls().kernels, before.kernels);
  for (int i = 0; i < 3; i++) expect_fine(table_.launch_graph(stream_, graph));
  EXPECT_EQ(emulation::host_calls().kernels, before.kernels);
  EXPECT_EQ(emulation::host_calls().graphs, before.graphs + 3);
}

TEST_F(CudaGraphEmulation, WhatMayNotBeAskedSpoilsTheCapture) {
  put(number_, 1);
  CudaEvent other = nullptr;
  expect_fine(table_.make_event(&other));
  expect_fine(table_.record(other, stream_));
  bool done = false;
  void* block = nullptr;
  const std::pair<const char*, std::function<CudaProblem()>> asked[] = {
      {"not permitted when stream is capturing", [&] { return table_.synchronize(stream_); }},
      {"not permitted when stream is capturing", [&] { return table_.event_done(other, &done); }},
      {"not permitted when stream is capturing", [&] { return table_.event_wait(other); }},
      {"not permitted when stream is capturing", [&] { return table_.reserve(64, &block); }},
      {"not permitted when stream is capturing", [&] { return table_.begin_capture(stream_); }},
      {"uncaptured work", [&] { return table_.wait_for(stream_, other); }},
      {"last recorded in a capturing stream",
       [&] {
         expect_fine(table_.record(event_, stream_));
         return table_.event_done(event_, &done);
       }},
  };
  for (const auto& [words, ask] : asked) {
    expect_fine(table_.begin_capture(stream_));
    add();
    const CudaProblem problem = ask();
    ASSERT_NE(problem, nullptr) << words;
    EXPECT_THAT(problem, HasSubstr(words));
    CudaGraph graph = nullptr;
    const CudaProblem spoilt = table_.end_capture(stream_, &graph);
    ASSERT_NE(spoilt, nullptr) << words;
    EXPECT_THAT(spoilt, HasSubstr("previous error during capture"));
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(sum(), 0) << "nothing of it runs, and the stream goes on: " << words;
  }
}

TEST_F(CudaGraphEmulation, EventsWithinACaptureOrderNothingOutside) {
  put(number_, 1);
  expect_fine(table_.begin_capture(stream_));
  add();
  expect_fine(table_.record(event_, stream_));
  expect_fine(table_.wait_for(stream_, event_));  // its own: in order anyhow
  CudaGraph graph = nullptr;
  expect_fine(table_.end_capture(stream_, &graph));
  expect_fine(table_.launch_graph(stream_, graph));
  EXPECT_EQ(sum(), 1);
  CudaStream other = nullptr;
  expect_fine(table_.make_stream(&other));
  EXPECT_THROW(table_.wait_for(other, event_), Fault);
}

TEST_F(CudaGraphEmulation, FindsGraphsThatOutliveTheirMemory) {
  const CudaGraph graph = graph_of(1);
  expect_fine(table_.synchronize(stream_));
  expect_fine(table_.release(number_));
  EXPECT_THROW(table_.launch_graph(stream_, graph), Fault);
}

TEST_F(CudaGraphEmulation, FindsGraphsThatEndTooEarlyOrNever) {
  put(number_, 1);
  const CudaGraph graph = graph_of(1);
  expect_fine(table_.launch_graph(stream_, graph));
  EXPECT_THROW(table_.end_graph(graph), Fault);
  EXPECT_EQ(sum(), 1);
  EXPECT_THROW(table_.end_graph(stream_), Fault);
  expect_fine(table_.end_graph(graph));
  EXPECT_THROW(table_.launch_graph(stream_, graph), Fault);
}

TEST_F(CudaGraphEmulation, CanBeRefused) {
  emulation::refuse_graphs();
  EXPECT_STREQ(table_.begin_capture(stream_), "operation not supported");
}

}  // namespace
}  // namespace spillway::cuda
