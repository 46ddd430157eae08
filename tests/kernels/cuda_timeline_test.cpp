// The record of a run shows when the device ran each call, on the host's clock.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/ops.h"
#include "kernels/trace.h"
#include "tests/support/gpu_under_test.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr int kCols = 64;

struct Shown {
  std::string name;
  double begin, end;  // microseconds
  uint64_t bytes;
};

// Of the rows whose names end in "(device)".
std::map<std::string, std::vector<Shown>> device_rows(const json& trace) {
  std::map<int, std::string> names;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") names[event["tid"]] = event["args"]["name"];
  }
  std::map<std::string, std::vector<Shown>> rows;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] != "X" || !names[event["tid"]].ends_with("(device)")) continue;
    const double begin = event["ts"], length = event["dur"];
    const uint64_t bytes = event.contains("args") ? event["args"].value("bytes", uint64_t{0}) : 0;
    rows[names[event["tid"]]].push_back({event["name"], begin, begin + length, bytes});
  }
  return rows;
}

TEST(CudaTimelineTest, KernelsAndCopiesInTheDevicesOwnTime) {
  begin_on_gpu_under_test(1);
  const auto path = std::filesystem::temp_directory_path() / ("cuda_timeline" + std::to_string(getpid()) + ".json");
  {
    const auto gpu = gpu_under_test();
    const auto untraced = gpu->make_copy_stream("untraced", 0);
    const int64_t begin = Trace::now();
    Trace::start(path.string());
    const auto compute = gpu->make_compute_stream("compute"), copies = gpu->make_copy_stream("copies", 0);
    constexpr int kTimes = 1500;  // more than are remembered at once
    BenchMatrix x(*gpu, DType::f32, 1, kCols), weight(*gpu, DType::f32, 1, kCols);
    x.fill(1);
    weight.fill(2);
    copies->copy(x.there().data, x.here().data, x.here().stride);
    weight.upload(*compute);
    compute->wait_for(copies->record());
    for (int i = 0; i < kTimes; i++) gpu->ops().norm(*compute, x.there(), weight.there(), 1e-5f, x.there());
    compute->synchronize();
    copies->synchronize();
    untraced->copy(weight.here().data, x.here().data, 4);
    untraced->synchronize();
    const auto rows = [&] {
      Trace::finish();
      return device_rows(json::parse(std::ifstream(path)));
    }();
    const double length = static_cast<double>(Trace::now() - begin) / 1e3;
    EXPECT_EQ(rows.size(), 2u);
    const std::vector<Shown>& work = rows.at("compute (device)");
    const std::vector<Shown>& copied = rows.at("copies (device)");
    ASSERT_EQ(work.size(), kTimes + 1u);
    ASSERT_EQ(copied.size(), 1u);
    EXPECT_EQ(copied.front().name, "copy");
    EXPECT_EQ(copied.front().bytes, x.here().stride);
    EXPECT_EQ(work.front().name, "copy");
    double now = 0;
    for (size_t i = 0; i < work.size(); i++) {
      EXPECT_EQ(work[i].name, i == 0 ? "copy" : "norm");
      EXPECT_GE(work[i].begin, now - 1.0) << "one after another, whatever a float rounds";
      EXPECT_GE(work[i].end, work[i].begin);
      now = work[i].end;
    }
    EXPECT_GE(work[1].begin, copied.front().end - 1.0) << "the first kernel waited for the copy";
    EXPECT_LE(now - work.front().begin, length);
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace spillway
