// The likeliest tokens of each row of logits, sorted: a thread block to a row.
//
// The k-th largest of the threads' largest logits is a floor that at least k logits reach, and few more; these are
// gathered and sorted. Where more reach it than there is room for, the floor is raised by bisection. A logit and its id
// make one key and all keys differ, so equal logits need no care, and the order of threads enters into nothing.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kRoom = 2 * kMostCandidates;
static_assert(kMostCandidates <= kThreads && kThreads <= kRoom);

struct CandidatesLaunch {
  std::byte* logits;
  std::byte* out;
  const int32_t* penalised;
  uint64_t logits_stride;
  uint64_t out_stride;
  int cols;
  int k;
  int penalised_count;
  float penalty;
};

// Larger for larger logits, and among equals for lower ids; never 0 for a number. Zeros are equal, whatever their sign.
__device__ __forceinline__ uint64_t key_of(float logit, int id) {
  const uint32_t bits = float_bits(logit + 0.0f);
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }
__device__ __forceinline__ float logit_of(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return float_from_bits((ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// Calls visit(logit, id) for this thread's share of the row.
template <typename Visit>
__device__ __forceinline__ void each_logit(const float* logits, int cols, const Visit& visit) {
#pragma unroll 8
  for (int id = static_cast<int>(threadIdx.x); id < cols; id += kThreads) visit(logits[id], id);
}

__device__ __forceinline__ int count_reaching(const float* logits, int cols, uint64_t floor) {
  int count = 0;
  each_logit(logits, cols, [&](float logit, int id) { count += key_of(logit, id) >= floor ? 1 : 0; });
  return count;
}

// Sum over the threads before this one; `total`: over all.
__device__ __forceinline__ int sum_before(int value, Shared<int> of_warps, int* total) {
  int sum = value;
#pragma unroll
  for (int lanes = 1; lanes < kWarpLanes; lanes *= 2) {
    const int below = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(lanes));
    if (lane_index() >= lanes) sum += below;
  }
  __syncthreads();  // what was there has been read
  if (lane_index() == kWarpLanes - 1) of_warps[warp_index()] = sum;
  __syncthreads();
  *total = 0;
  int before = sum - value;
  for (int w = 0; w < kWarps; w++) {
    if (w < warp_index()) before += of_warps[w];
    *total += of_warps[w];
  }
  return before;
}

// Bitonic sort, the largest first; `size`, a power of two, keys.
__device__ __forceinline__ void sort(Shared<uint64_t> keys, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int low = 2 * i - i % step;
        const uint64_t a = keys[low];
        const uint64_t b = keys[low + step];
        if ((a < b) != ((low & run) == 0)) continue;
        keys[low] = b;
        keys[low + step] = a;
      }
    }
  }
  __syncthreads();
}

// exp(logit - largest) summed over the row: a thread's share in order, then lanes, then warps.
__device__ __forceinline__ float sum_of_row(const float* logits, int cols, float largest, Shared<float> of_warps) {
  float sum = 0.0f;
  each_logit(logits, cols, [&](float logit, int) { sum += exp_of_negative(logit - largest); });
  sum = lane_sum<16>(sum);
  if (lane_index() == 0) of_warps[warp_index()] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int w = 0; w < kWarps; w++) total += of_warps[w];
  return total;
}

__global__ void __launch_bounds__(kThreads) choose_candidates(CandidatesLaunch a) {
  SPILLWAY_SHARED(uint64_t, keys, kRoom);
  SPILLWAY_SHARED(int, counts, kWarps);
  SPILLWAY_SHARED(float, sums, kWarps);
  const int thread = static_cast<int>(threadIdx.x);
  float* logits = reinterpret_cast<float*>(a.logits + blockIdx.x * a.logits_stride);
  for (int i = thread; i < a.penalised_count; i += kThreads) {
    float& logit = logits[a.penalised[i]];
    logit = logit > 0.0f ? logit / a.penalty : logit * a.penalty;
  }
  __syncthreads();

  uint64_t largest = 0;
  each_logit(logits, a.cols, [&](float logit, int id) {
    const uint64_t key = key_of(logit, id);
    largest = key > largest ? key : largest;
  });
  keys[thread] = largest;
  sort(keys, kThreads);
  const float max = logit_of(keys[0]);
  uint64_t floor = keys[a.k - 1];
  uint64_t above = ~uint64_t{0};  // fewer than k reach it
  int total = 0;
  int place = sum_before(count_reaching(logits, a.cols, floor), counts, &total);
  while (total > kRoom) {
    const uint64_t middle = floor + (above - floor) / 2;
    int reaching = 0;
    const int before = sum_before(count_reaching(logits, a.cols, middle), counts, &reaching);
    if (reaching < a.k) {
      above = middle;
    } else {
      floor = middle;
      total = reaching;
      place = before;
    }
  }
  int size = 2;
  while (size < total) size *= 2;
  for (int i = total + thread; i < size; i += kThreads) keys[i] = 0;
  each_logit(logits, a.cols, [&](float logit, int id) {
    const uint64_t key = key_of(logit, id);
    if (key >= floor) keys[place++] = key;
  });
  sort(keys, size);
  const float sum = sum_of_row(logits, a.cols, max, sums);
  float* out = reinterpret_cast<float*>(a.out + blockIdx.x * a.out_stride);
  for (int i = thread; i < a.k; i += kThreads) {
    const uint64_t key = keys[i];
    out[i] = logit_of(key);
    out[a.k + i] = float_from_bits(static_cast<uint32_t>(id_of(key)));
  }
  if (thread == 0) out[2 * a.k] = sum;
}

}  // namespace

cudaError_t launch_candidates(cudaStream_t stream, const CudaCandidates& args) {
  SPILLWAY_CHECK(args.logits.dtype == DType::f32 && args.out.dtype == DType::f32);
  SPILLWAY_CHECK(args.out.rows == args.logits.rows && args.out.cols == candidate_floats(args.k));
  SPILLWAY_CHECK(args.k >= 1 && args.k <= kMostCandidates && args.k <= args.logits.cols);
  if (args.logits.rows == 0) return cudaSuccess;
  const CandidatesLaunch a = {.logits = args.logits.data,
                              .out = args.out.data,
                              .penalised = args.penalised,
                              .logits_stride = args.logits.stride,
                              .out_stride = args.out.stride,
                              .cols = static_cast<int>(args.logits.cols),
                              .k = args.k,
                              .penalised_count = args.penalised_count,
                              .penalty = args.penalty};
  return launch(choose_candidates, dim3(static_cast<uint32_t>(args.logits.rows)), dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
