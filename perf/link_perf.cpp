// Speed of the link between host and device memory: each way alone and both at once, from pinned and from pageable host
// memory, by the length of a copy; and of the device's memory, by copies within it. JSON, bytes a second.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "perf/cuda_bench.h"
#include "perf/tool.h"

namespace spillway {
namespace {

struct Work {
  uint64_t bytes = 0;        // of a pass
  uint64_t device_pool = 0;  // that copies within the device walk over; far more than its cache holds
  int passes = 0;
  bool pinned_only = false;
};

class Bench {
 public:
  Bench(const Gpu& gpu, const Work& work)
      : work_(work),
        host_(gpu, 2 * work.bytes, true),
        device_(gpu, std::max(work.device_pool, 2 * work.bytes), false),
        up_(gpu),
        down_(gpu),
        pageable_(work.pinned_only ? 0 : 2 * work.bytes, std::byte{1}) {
    std::memset(host_.data(), 1, 2 * work.bytes);
    up_.copy(device_.data(), host_.data(), 2 * work.bytes);
    up_.synchronize();
  }

  // Copies of `piece` bytes, one after another.
  nlohmann::json by_piece(uint64_t piece) {
    nlohmann::json row{{"piece_bytes", piece}};
    add(row, "pinned", host_.data(), piece);
    if (!work_.pinned_only) add(row, "pageable", pageable_.data(), piece);
    return row;
  }

  // Bytes read and bytes written, a second, of copies from one half of the pool to the other.
  double within_device() {
    const uint64_t half = work_.device_pool / 2;
    const auto copy = [&] { up_.copy(device_.data() + half, device_.data(), half); };
    return best([&] {
      return rate(2.0 * kCopies * static_cast<double>(half), [&] {
        for (int i = 0; i < kCopies; ++i) copy();
        up_.synchronize();
      });
    });
  }

 private:
  static constexpr int kCopies = 8;  // between two waits of the host

  void add(nlohmann::json& row, const std::string& memory, std::byte* host, uint64_t piece) {
    std::byte* upward = device_.data();
    std::byte* downward = device_.data() + work_.bytes;
    std::byte* below = host + work_.bytes;
    const auto amount = static_cast<double>(work_.bytes);
    const auto copies = [&](const GpuStream& stream, std::byte* to, const std::byte* from) {
      for (uint64_t at = 0; at < work_.bytes; at += piece)
        stream.copy(to + at, from + at, std::min(piece, work_.bytes - at));
    };
    row[memory + "_to_device"] = best([&] {
      return rate(amount, [&] {
        copies(up_, upward, host);
        up_.synchronize();
      });
    });
    row[memory + "_to_host"] = best([&] {
      return rate(amount, [&] {
        copies(down_, below, downward);
        down_.synchronize();
      });
    });
    if (memory != "pinned") return;  // a copy of pageable memory is none that goes on beside another
    // In turns, so that neither stream's queue is filled before the other's.
    row[memory + "_both_ways"] = best([&] {
      return rate(2 * amount, [&] {
        for (uint64_t at = 0; at < work_.bytes; at += piece) {
          const uint64_t bytes = std::min(piece, work_.bytes - at);
          up_.copy(upward + at, host + at, bytes);
          down_.copy(below + at, downward + at, bytes);
        }
        up_.synchronize();
        down_.synchronize();
      });
    });
  }

  // Of several passes: what disturbs one only makes it slower.
  double best(const std::function<double()>& pass) const {
    double most = 0;
    for (int i = 0; i < work_.passes; ++i) most = std::max(most, pass());
    return most;
  }

  Work work_;
  GpuBlock host_, device_;
  GpuStream up_, down_;
  std::vector<std::byte> pageable_;
};

int run(int argc, char** argv) {
  std::string module_path;
  int device = 0;
  uint64_t mebibytes = 256, pool = 2048;
  Work work{.passes = 7};
  CLI::App app("Speed of the link between host and device memory, and of device memory; JSON, bytes a second");
  app.add_option("--module", module_path, "The CUDA module (default: as spillway finds it)")
      ->envname("SPILLWAY_CUDA_MODULE");
  app.add_option("--gpu", device, "Number of the device")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--mib", mebibytes, "Of a pass, each way")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--device-mib", pool, "Of copies within the device")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--passes", work.passes, "Of each; the best counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--pinned-only", work.pinned_only, "No copies of pageable memory");
  CLI11_PARSE(app, argc, argv);
  work.bytes = mebibytes << 20;
  work.device_pool = pool << 20;

  const Gpu gpu(module_path, device);
  Bench bench(gpu, work);
  nlohmann::json rows = nlohmann::json::array();
  for (uint64_t piece = 64 << 10; piece <= work.bytes; piece *= 4) rows.push_back(bench.by_piece(piece));
  std::printf(
      "%s\n",
      nlohmann::json{{"device", gpu.name()}, {"within_device_read_and_written", bench.within_device()}, {"rows", rows}}
          .dump(1)
          .c_str());
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("link_perf", spillway::run, argc, argv); }
