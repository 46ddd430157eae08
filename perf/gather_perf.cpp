// Rows gathered from pinned host memory, three ways beside one plain copy of as many bytes: by a kernel that reads them
// over the link where they lie, by one asynchronous copy each, and by a host thread into a pinned block that one copy
// takes along. Which row length makes which of them worth while; JSON.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "perf/cuda_bench.h"
#include "perf/tool.h"

namespace spillway {
namespace {

struct Sizes {
  uint64_t pool = 0;    // bytes that rows are picked from
  uint64_t gather = 0;  // bytes of one gather
  int passes = 0;
};

class Bench {
 public:
  Bench(const Gpu& gpu, const Sizes& sizes)
      : table_(gpu.table()),
        sizes_(sizes),
        pool_(gpu, sizes.pool, true),
        staging_(gpu, sizes.gather, true),
        out_(gpu, sizes.gather, false),
        rows_(gpu, sizes.gather / kLeastRow * sizeof(int32_t), false),
        rows_host_(gpu, sizes.gather / kLeastRow * sizeof(int32_t), true),
        runs_(gpu, sizes.gather / kLeastRow * sizeof(GatherRun), true),
        stream_(gpu) {
    std::memset(pool_.data(), 1, sizes.pool);
    std::memset(staging_.data(), 1, sizes.gather);
  }

  nlohmann::json row(uint32_t row_bytes) {
    pick(row_bytes);
    std::vector<double> copy, kernel, runs, copies, host;
    const int few = std::min(count_, kMostCopies);
    for (int pass = 0; pass < sizes_.passes; ++pass) {
      copy.push_back(speed(bytes_, [&] { stream_.copy(out_.data(), staging_.data(), bytes_); }));
      kernel.push_back(speed(bytes_, [&] { gather(row_bytes); }));
      runs.push_back(speed(bytes_, [&] { gather_runs(); }));
      copies.push_back(speed(uint64_t{row_bytes} * few, [&] { copy_each(row_bytes, few); }));
      host.push_back(speed(bytes_, [&] { through_the_host(row_bytes); }));
    }
    return {{"row_bytes", row_bytes},
            {"rows", count_},
            {"copy", median(copy)},
            {"gather_kernel", median(kernel)},
            {"gather_runs", median(runs)},
            {"copy_for_each", median(copies)},
            {"gathered_by_host", median(host)}};
  }

  static constexpr uint32_t kLeastRow = 32;

 private:
  static constexpr int kMostCopies = 4096;  // a copy each is slow, and soon known to be

  // Rows in random order, none twice.
  void pick(uint32_t row_bytes) {
    std::vector<int32_t> all(sizes_.pool / row_bytes);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random_);
    count_ = static_cast<int>(sizes_.gather / row_bytes);
    bytes_ = uint64_t{row_bytes} * count_;
    std::memcpy(rows_host_.data(), all.data(), count_ * sizeof(int32_t));
    stream_.copy(rows_.data(), rows_host_.data(), count_ * sizeof(int32_t));
    stream_.synchronize();
    auto* runs = reinterpret_cast<GatherRun*>(runs_.data());
    for (int i = 0; i < count_; ++i) runs[i] = {out_.data() + uint64_t{row_bytes} * i, source(row_bytes, i), row_bytes};
  }

  void gather(uint32_t row_bytes) {
    const CudaGather arguments = {.from = pool_.data(),
                                  .rows = reinterpret_cast<const int32_t*>(rows_.data()),
                                  .count = count_,
                                  .row_bytes = row_bytes,
                                  .to = out_.data()};
    check_cuda(table_.gather(stream_.get(), &arguments));
  }

  // Each with an address and a length of its own, as Stream::gather has them.
  void gather_runs() {
    const CudaGatherRuns arguments = {.runs = reinterpret_cast<const GatherRun*>(runs_.data()), .count = count_};
    check_cuda(table_.gather_runs(stream_.get(), &arguments));
  }

  const std::byte* source(uint32_t row_bytes, int i) const {
    return pool_.data() + uint64_t{row_bytes} * reinterpret_cast<const int32_t*>(rows_host_.data())[i];
  }

  void copy_each(uint32_t row_bytes, int count) {
    for (int i = 0; i < count; ++i) {
      stream_.copy(out_.data() + uint64_t{row_bytes} * i, source(row_bytes, i), row_bytes);
    }
  }

  void through_the_host(uint32_t row_bytes) {
    for (int i = 0; i < count_; ++i)
      std::memcpy(staging_.data() + uint64_t{row_bytes} * i, source(row_bytes, i), row_bytes);
    stream_.copy(out_.data(), staging_.data(), bytes_);
  }

  double speed(uint64_t bytes, const std::function<void()>& work) {
    return rate(static_cast<double>(bytes), [&] {
      work();
      stream_.synchronize();
    });
  }

  const SpillwayCudaTable& table_;
  Sizes sizes_;
  GpuBlock pool_, staging_, out_, rows_, rows_host_, runs_;
  GpuStream stream_;
  std::mt19937_64 random_{1};
  int count_ = 0;
  uint64_t bytes_ = 0;
};

int run(int argc, char** argv) {
  std::string module_path;
  int device = 0, passes = 9;
  uint64_t pool_mib = 1024, gather_mib = 64;
  CLI::App app("Speed of gathering rows from pinned host memory, beside a plain copy; JSON, bytes a second");
  app.add_option("--module", module_path, "The CUDA module (default: as spillway finds it)")
      ->envname("SPILLWAY_CUDA_MODULE");
  app.add_option("--gpu", device, "Number of the device")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--pool-mib", pool_mib, "Pinned memory that rows are picked from")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--mib", gather_mib, "Of one gather")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--passes", passes, "Of each; the median counts")->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (gather_mib > pool_mib) throw Error(ErrorKind::usage, "--mib: more than --pool-mib");

  const Gpu gpu(module_path, device);
  Bench bench(gpu, {.pool = pool_mib << 20, .gather = gather_mib << 20, .passes = passes});
  nlohmann::json rows = nlohmann::json::array();
  for (uint32_t row_bytes = Bench::kLeastRow; row_bytes <= 4096; row_bytes *= 2) rows.push_back(bench.row(row_bytes));
  std::printf("%s\n", nlohmann::json{{"device", gpu.name()}, {"rows", rows}}.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("gather_perf", spillway::run, argc, argv); }
