// Ranges shown to a profiler: through the trace alone, and through the CUDA module's table under the emulation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/cuda/module.h"
#include "kernels/trace.h"
#include "tests/support/cuda_emulation/nvtx.h"
#include "tests/support/cuda_emulation/runtime.h"

namespace spillway {
namespace {

using testing::ElementsAre;

const RangeViewer& module_viewer() {
  static const RangeViewer viewer{.push = spillway_cuda_table()->push_range, .pop = spillway_cuda_table()->pop_range};
  return viewer;
}

class TraceViewTest : public testing::Test {
 protected:
  void TearDown() override {
    Trace::show_ranges_to(nullptr);
    emulation::attach_tool(false);
  }
};

TEST_F(TraceViewTest, AModuleSaysWhetherItIsProfiled) {
  EXPECT_FALSE(spillway_cuda_table()->profiled());
  emulation::attach_tool(true);
  EXPECT_TRUE(spillway_cuda_table()->profiled());
}

TEST_F(TraceViewTest, RangesNestAndEndWithOrWithoutARecord) {
  emulation::attach_tool(true);
  const Trace::Track track = Trace::track("host");
  { const TraceRange unseen(track, "before"); }
  EXPECT_FALSE(Trace::watched());
  Trace::show_ranges_to(&module_viewer());
  EXPECT_TRUE(Trace::watched());
  EXPECT_FALSE(Trace::on());
  {
    const TraceRange layer(track, "layer 3");
    { const TraceRange stage(track, "qkv", 4096); }
    { const TraceRange stage(track, "attend"); }
    EXPECT_EQ(emulation::shown().open, 1);
  }
  Trace::show_ranges_to(nullptr);
  { const TraceRange unseen(track, "after"); }
  const emulation::Shown seen = emulation::shown();
  EXPECT_EQ(seen.open, 0);
  ASSERT_EQ(seen.ranges.size(), 3u);
  EXPECT_THAT(seen.ranges[0].path, ElementsAre("layer 3"));
  EXPECT_THAT(seen.ranges[1].path, ElementsAre("layer 3", "qkv"));
  EXPECT_THAT(seen.ranges[2].path, ElementsAre("layer 3", "attend"));
  EXPECT_EQ(seen.ranges[0].bytes, 0u);
  EXPECT_EQ(seen.ranges[1].bytes, 4096u);
}

TEST_F(TraceViewTest, WorkOfACpuStreamIsSeenOnItsOwnThread) {
  emulation::attach_tool(true);
  Trace::show_ranges_to(&module_viewer());
  {
    CpuStream stream("worker", nullptr);
    const TraceRange outside(Trace::track("host"), "decode");
    stream.enqueue([] {}, "norm");
    stream.enqueue([] {});
    stream.synchronize();
  }
  const emulation::Shown seen = emulation::shown();
  EXPECT_EQ(seen.open, 0);
  ASSERT_EQ(seen.ranges.size(), 2u);
  EXPECT_THAT(seen.ranges[0].path, ElementsAre("decode"));
  EXPECT_THAT(seen.ranges[1].path, ElementsAre("norm"));
}

TEST_F(TraceViewTest, StreamsHaveNames) {
  emulation::attach_tool(true);
  CudaStream stream = nullptr;
  ASSERT_EQ(spillway_cuda_table()->make_stream(&stream), nullptr);
  spillway_cuda_table()->name_stream(stream, "weights host to device");
  EXPECT_THAT(emulation::shown().streams, ElementsAre("weights host to device"));
  EXPECT_EQ(spillway_cuda_table()->end_stream(stream), nullptr);
}

}  // namespace
}  // namespace spillway
