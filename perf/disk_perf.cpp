// disk_perf FILE: read speed of every rung of the disk queue at several depths, as JSON. The O_DIRECT rows are the
// limit that other figures stand beside. The page cache is dropped before each row, for this file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "memory/disk_queue.h"
#include "memory/extent.h"
#include "memory/file.h"
#include "perf/tool.h"

namespace spillway {
namespace {

using Clock = std::chrono::steady_clock;

struct Work {
  uint64_t request_bytes = 0;
  uint64_t bytes = 0;
  bool random = false;
};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The places read, in order: from the start on, or each request-sized place of the file once, shuffled.
std::vector<uint64_t> offsets_of(const File& file, const Work& work) {
  std::vector<uint64_t> offsets;
  for (uint64_t at = 0; at + work.request_bytes <= file.bytes(); at += work.request_bytes) offsets.push_back(at);
  if (work.random) std::shuffle(offsets.begin(), offsets.end(), std::mt19937_64(1));
  offsets.resize(std::min<uint64_t>(offsets.size(), work.bytes / work.request_bytes));
  return offsets;
}

// One row: as many batches of one request as `depth`, each renewed when it is done.
nlohmann::json measure(const File& file, std::span<std::byte> memory, const Work& work, DiskMethod best, int depth) {
  ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
  const auto queue = DiskQueue::open({&file}, {memory}, {work.request_bytes, depth, best, depth * work.request_bytes});
  const std::vector<uint64_t> offsets = offsets_of(file, work);
  std::vector<Event> events(depth);
  const uint64_t places = memory.size() / work.request_bytes;  // no fewer than are in flight
  const double cpu_before = cpu_seconds();
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < offsets.size(); ++i) {
    Event& event = events[i % events.size()];
    event.wait();
    const DiskRequest request{0, offsets[i], work.request_bytes, memory.data() + i % places * work.request_bytes};
    event = queue->read({&request, 1});
  }
  for (const Event& event : events) event.wait();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  queue->check();
  const DiskStats stats = queue->stats();
  const double bytes = static_cast<double>(stats.bytes_read);
  return {{"asked", kDiskMethodNames[static_cast<int>(best)]},
          {"method", kDiskMethodNames[static_cast<int>(queue->method())]},
          {"why", queue->why()},
          {"order", work.random ? "random" : "sequential"},
          {"request_bytes", work.request_bytes},
          {"depth", depth},
          {"memory_bytes", places * work.request_bytes},
          {"bytes", stats.bytes_read},
          {"seconds", seconds},
          {"gb_per_second", bytes / seconds * 1e-9},
          {"cpu_seconds_per_gb", (cpu_seconds() - cpu_before) / (bytes * 1e-9)},
          {"busy_share", stats.seconds_busy / seconds}};
}

int run(int count, char** words) {
  CLI::App app{"Read speed of a file through every rung of the disk queue, as JSON"};
  std::string path;
  uint64_t mebibytes = 512, kibibytes = 1024, memory_mebibytes = 0;
  std::vector<int> depths = {1, 4, 8, 16};
  int repetitions = 1;
  Work work;
  app.add_option("file", path, "A file larger than what is read of it")->required();
  app.add_option("--mib", mebibytes, "MiB to read for each row (at most the file)")->capture_default_str();
  app.add_option("--request-kib", kibibytes, "KiB of each request")
      ->check(CLI::Range(4, 1 << 20))
      ->capture_default_str();
  app.add_option("--depth", depths, "Requests in flight")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option(
      "--memory-mib", memory_mebibytes,
      "MiB that the reads land in, in turn; at least what is in flight, and no more (the caches may hold that)");
  app.add_option("-r", repetitions, "Rounds over all rungs and depths")->capture_default_str();
  app.add_flag("--random", work.random, "Shuffle the order of the requests");
  CLI11_PARSE(app, count, words);
  work.request_bytes = align_down(kibibytes << 10, kDiskAlign);
  work.bytes = mebibytes << 20;

  const File file = File::open_read(path);
  if (file.bytes() < work.request_bytes) throw Error(ErrorKind::usage, "the file is smaller than one request: " + path);
  const auto most_in_flight = static_cast<uint64_t>(*std::max_element(depths.begin(), depths.end()));
  const uint64_t memory_bytes = std::max(work.request_bytes * most_in_flight, memory_mebibytes << 20);
  // Huge pages, as the arenas have them: with small ones the kernel spends three times the CPU on each gigabyte.
  const uint64_t reserved = align_up(memory_bytes, 2 << 20);
  void* memory = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw Error(ErrorKind::fit, "no memory for the requests in flight");
  ::madvise(memory, reserved, MADV_HUGEPAGE);
  std::memset(memory, 1, reserved);
  nlohmann::json rows = nlohmann::json::array();
  for (int round = 0; round < repetitions; ++round) {
    for (const int depth : depths) {
      for (const DiskMethod best :
           {DiskMethod::uring_fixed, DiskMethod::uring, DiskMethod::threads, DiskMethod::buffered}) {
        rows.push_back(measure(file, {static_cast<std::byte*>(memory), memory_bytes}, work, best, depth));
        rows.back()["round"] = round;
      }
    }
  }
  ::munmap(memory, reserved);
  std::printf("%s\n", nlohmann::json{{"file", path}, {"file_bytes", file.bytes()}, {"rows", rows}}.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("disk_perf", spillway::run, argc, argv); }
