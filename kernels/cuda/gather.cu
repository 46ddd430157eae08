// Rows or runs of host memory read by the device where they lie, a thread to 16 bytes: many short reads are in flight
// over the link, which one copy after another never has.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWordsPerThread = 4;  // in flight at once

struct GatherRows {
  const std::byte* from;
  const int32_t* rows;
  std::byte* to;
  int64_t words;  // of 16 bytes, in all
  int words_per_row;
};

__global__ void __launch_bounds__(kThreads) gather_rows(GatherRows g) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kWordsPerThread + threadIdx.x;
  uint4 words[kWordsPerThread];
#pragma unroll
  for (int i = 0; i < kWordsPerThread; i++) {
    const int64_t word = first + i * kThreads;
    if (word >= g.words) continue;
    const int64_t row = g.rows[word / g.words_per_row];
    words[i] = load_stream(g.from + (row * g.words_per_row + word % g.words_per_row) * 16);
  }
#pragma unroll
  for (int i = 0; i < kWordsPerThread; i++) {
    const int64_t word = first + i * kThreads;
    if (word < g.words) store_words(g.to + word * 16, words[i]);
  }
}

// A warp to a run: they differ in length, and few are longer than what a warp has in flight.
__global__ void __launch_bounds__(kThreads) gather_runs(const GatherRun* runs, int count) {
  const int index = static_cast<int>(blockIdx.x) * (kThreads / kWarpLanes) + warp_index();
  if (index >= count) return;
  const GatherRun run = runs[index];
  const int64_t words = static_cast<int64_t>(run.bytes / 16);
  for (int64_t first = lane_index(); first < words; first += kWarpLanes * kWordsPerThread) {
    uint4 held[kWordsPerThread];
#pragma unroll
    for (int i = 0; i < kWordsPerThread; i++) {
      const int64_t word = first + i * kWarpLanes;
      if (word < words) held[i] = load_stream(run.from + word * 16);
    }
#pragma unroll
    for (int i = 0; i < kWordsPerThread; i++) {
      const int64_t word = first + i * kWarpLanes;
      if (word < words) store_words(run.to + word * 16, held[i]);
    }
  }
}

}  // namespace

cudaError_t launch_gather_runs(cudaStream_t stream, const CudaGatherRuns& a) {
  if (a.count == 0) return cudaSuccess;
  const int blocks = ceil_div(a.count, kThreads / kWarpLanes);
  return launch(gather_runs, dim3(static_cast<uint32_t>(blocks)), dim3(kThreads), 0, stream, a.runs, a.count);
}

cudaError_t launch_gather(cudaStream_t stream, const CudaGather& a) {
  SPILLWAY_CHECK(a.row_bytes > 0 && a.row_bytes % 16 == 0 && a.row_bytes <= (1u << 30) && a.count >= 0);
  SPILLWAY_CHECK(reinterpret_cast<uintptr_t>(a.from) % 16 == 0 && reinterpret_cast<uintptr_t>(a.to) % 16 == 0);
  const int words_per_row = static_cast<int>(a.row_bytes / 16);
  const GatherRows g = {.from = a.from,
                        .rows = a.rows,
                        .to = a.to,
                        .words = int64_t{a.count} * words_per_row,
                        .words_per_row = words_per_row};
  if (g.words == 0) return cudaSuccess;
  if (g.words > int64_t{INT32_MAX} * kThreads) return cudaErrorInvalidValue;
  const int blocks = ceil_div(g.words, int64_t{kThreads} * kWordsPerThread);
  return launch(gather_rows, dim3(static_cast<uint32_t>(blocks)), dim3(kThreads), 0, stream, g);
}

}  // namespace spillway::cuda
