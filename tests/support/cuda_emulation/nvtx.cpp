#include "tests/support/cuda_emulation/nvtx.h"

#include <atomic>
#include <mutex>

#include "kernels/cuda/launchers.cuh"

namespace spillway::emulation {
namespace {

std::atomic<bool> attached_now{false};
std::mutex mutex;
Shown kept;
thread_local std::vector<std::string> path;

}  // namespace

void attach_tool(bool attached) {
  const std::lock_guard guard(mutex);
  kept = {};
  attached_now = attached;
}

Shown shown() {
  const std::lock_guard guard(mutex);
  return kept;
}

}  // namespace spillway::emulation

namespace spillway::cuda {

bool profiled() { return emulation::attached_now; }

void push_range(const char* name, uint64_t bytes) {
  const std::lock_guard guard(emulation::mutex);
  emulation::path.emplace_back(name);
  emulation::kept.ranges.push_back({emulation::path, bytes});
  ++emulation::kept.open;
}

void pop_range() {
  const std::lock_guard guard(emulation::mutex);
  if (emulation::path.empty()) fault("a range ends that has not begun");
  emulation::path.pop_back();
  --emulation::kept.open;
}

void name_stream(CudaStream, const char* name) {
  const std::lock_guard guard(emulation::mutex);
  emulation::kept.streams.emplace_back(name);
}

}  // namespace spillway::cuda
