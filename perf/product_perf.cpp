// Products of matrices on a GPU: cuBLAS with F16 and sums in F32, the peak of a prefill, and beside it ours for weights
// of every type and for few and many rows of x, in turns in the same run; JSON, operations a second and their share.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "perf/cuda_bench.h"
#include "perf/tool.h"

namespace spillway {
namespace {

struct Shape {
  int64_t n, k;
};
constexpr Shape kShapes[] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {1024, 4096}};
constexpr int64_t kRowsOfX[] = {16, 64, 512};
constexpr DType kTypes[] = {DType::q4_0, DType::q4_1, DType::q8_0, DType::f16, DType::bf16};

class Bench {
 public:
  // most: of n and of k.
  Bench(const Gpu& gpu, int64_t most, int passes)
      : table_(gpu.table()),
        passes_(passes),
        pool_bytes_(static_cast<uint64_t>(most) * most * 4),
        weights_(gpu, pool_bytes_, false),
        x_(gpu, kMostRows * most * sizeof(float), false),
        out_(gpu, kMostRows * most * sizeof(float), false),
        scratch_(gpu, cuda_matvec_scratch_bytes(kMostRows, most), false),
        random_(gpu, kRandomBytes, true),
        stream_(gpu) {
    std::mt19937 bits(1);
    auto* words = reinterpret_cast<uint32_t*>(random_.data());
    for (uint64_t i = 0; i < kRandomBytes / 4; ++i)
      words[i] = static_cast<uint32_t>(bits()) & 0x2fff2fffu;  // small, finite
    fill(weights_, pool_bytes_);
    fill(x_, kMostRows * most * sizeof(float));
  }

  // Seconds of one product, the median.
  double seconds(DType type, int64_t m, const Shape& shape) {
    const CudaMatmul arguments = {.x = View::dense(x_.data(), DType::f32, m, shape.k),
                                  .parts = &part_,
                                  .parts_count = 1,
                                  .scratch = scratch_.data(),
                                  .scratch_bytes = cuda_matvec_scratch_bytes(m, shape.k)};
    part_.out = View::dense(out_.data(), DType::f32, m, shape.n);
    const int products = passes_ > 1 ? kProductsOfPass : 1;
    std::vector<double> products_per_second;
    for (int pass = -1; pass < passes_; ++pass) {
      const double rate_now = rate(products, [&] {
        for (int i = 0; i < products; ++i) {
          part_.weight = next_weight(type, shape);
          check_cuda(table_.matmul(stream_.get(), &arguments));
        }
        stream_.synchronize();
      });
      if (pass >= 0) products_per_second.push_back(rate_now);
    }
    return 1.0 / median(products_per_second);
  }

  static constexpr int64_t kMostRows = 512;

 private:
  static constexpr uint64_t kRandomBytes = 1 << 20;
  static constexpr int kProductsOfPass = 10;  // one is soon over beside the moment in which the host waits

  // Another one each time, so that a cache that holds one is of no use.
  View next_weight(DType type, const Shape& shape) {
    const uint64_t bytes = shape.n * row_bytes(type, shape.k);
    if (next_ + bytes > pool_bytes_) next_ = 0;
    const View weight = View::dense(weights_.data() + next_, type, shape.n, shape.k);
    next_ += (bytes + 255) / 256 * 256;
    return weight;
  }

  void fill(const GpuBlock& block, uint64_t bytes) {
    for (uint64_t at = 0; at < bytes; at += kRandomBytes) {
      stream_.copy(block.data() + at, random_.data(), std::min(kRandomBytes, bytes - at));
    }
    stream_.synchronize();
  }

  const SpillwayCudaTable& table_;
  int passes_;
  uint64_t pool_bytes_;
  uint64_t next_ = 0;
  MatmulPart part_;
  GpuBlock weights_, x_, out_, scratch_, random_;
  GpuStream stream_;
};

int run(int argc, char** argv) {
  std::string module_path;
  int device = 0, passes = 7;
  int64_t side = 8192, divide = 1;
  CLI::App app("Speed of matrix products on a GPU, beside cuBLAS; JSON, operations a second");
  app.add_option("--module", module_path, "The CUDA module (default: as spillway finds it)")
      ->envname("SPILLWAY_CUDA_MODULE");
  app.add_option("--gpu", device, "Number of the device")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--side", side, "Of the square matrices for cuBLAS")
      ->check(CLI::Range(8, 16384))
      ->capture_default_str();
  app.add_option("--divide", divide, "Shapes smaller by this factor")->check(CLI::Range(1, 32))->capture_default_str();
  app.add_option("--passes", passes, "Of each; the median counts")->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Gpu gpu(module_path, device);
  nlohmann::json result = {{"device", gpu.name()}, {"side", side}, {"rows", nlohmann::json::array()}};
  double peak = 0.0;
  if (const CudaProblem problem = gpu.table().product_speed(static_cast<int32_t>(side), &peak)) {
    result["no_peak"] = problem;
  } else {
    result["flops"] = {{"float16", peak}};
  }
  Bench bench(gpu, 11008 / divide, passes);
  for (const DType type : kTypes) {
    for (const Shape& full : kShapes) {
      const Shape shape = {full.n / divide, full.k / divide / 32 * 32};
      for (const int64_t m : kRowsOfX) {
        const double flops = 2.0 * static_cast<double>(m * shape.n * shape.k) / bench.seconds(type, m, shape);
        nlohmann::json row = {{"type", info(type).name}, {"m", m}, {"n", shape.n}, {"k", shape.k}, {"flops", flops}};
        if (peak > 0.0) row["share_of_peak"] = flops / peak;
        result["rows"].push_back(row);
      }
    }
  }
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("product_perf", spillway::run, argc, argv); }
