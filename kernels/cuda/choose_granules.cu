// Which granules are read (kernels/selection.h): a thread block to a KV head. The least key that is chosen is found by
// its digits of two bits, the highest first, counting what reaches each; then what is above it is written in ascending
// order, and of its equals the earliest.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/granule_key.h"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpLanes;

struct ChooseLaunch {
  const std::byte* weights;
  std::byte* ids;
  uint64_t weights_stride;
  uint64_t ids_stride;
  const GranuleChoice* choice;
};

__device__ __forceinline__ uint32_t key_of(const float* weights, const GranuleChoice& choice, int id) {
  if (id < choice.first || id >= choice.granules - choice.last) return kForcedGranule;
  return granule_key(weights[id]);
}

// The sum over the thread block. of_warps: not read since the barrier before.
__device__ __forceinline__ uint64_t block_total(uint64_t value, Shared<uint64_t> of_warps) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes >= 1; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  if (lane_index() == 0) of_warps[warp_index()] = value;
  __syncthreads();
  value = of_warps[lane_index()];
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes >= 1; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

// The largest key that `count` granules reach. totals: [2 x kWarps].
__device__ __forceinline__ uint32_t least_chosen(const float* weights, const GranuleChoice& choice,
                                                 Shared<uint64_t> totals) {
  uint32_t least = 0;
  for (int shift = 30, turn = 0; shift >= 0; shift -= 2, turn ^= 1) {
    const uint32_t step = 1u << shift;
    uint64_t reached = 0;  // by digit 1, 2, 3: 21 bits each (kCudaMostGranules)
#pragma unroll 4
    for (int id = static_cast<int>(threadIdx.x); id < choice.granules; id += kThreads) {
      const uint32_t key = key_of(weights, choice, id);
      reached += (key >= least + step ? 1 : 0) + (key >= least + 2 * step ? uint64_t{1} << 21 : 0) +
                 (key >= least + 3 * step ? uint64_t{1} << 42 : 0);
    }
    reached = block_total(reached, totals + turn * kWarps);
    for (int digit = 3; digit >= 1; digit--) {
      if (static_cast<int>(reached >> (digit - 1) * 21 & ((1 << 21) - 1)) < choice.count) continue;
      least += static_cast<uint32_t>(digit) * step;
      break;
    }
  }
  return least;
}

// Of those that count for something; by key, for one that is chosen in any case is above all.
__device__ __forceinline__ float weight_of(const float* weights, const GranuleChoice& choice, int id) {
  return id < choice.scored && !(weights[id] != weights[id]) ? weights[id] : 0.0f;
}

// The largest key such that what reaches it weighs as much as is wanted. sums: [2 x 3 x kWarps].
__device__ __forceinline__ uint32_t least_of_mass(const float* weights, const GranuleChoice& choice,
                                                  Shared<float> sums) {
  uint32_t least = 0;
  for (int shift = 30, turn = 0; shift >= 0; shift -= 2, turn ^= 1) {
    const uint32_t step = 1u << shift;
    float reached[3] = {};
    for (int id = static_cast<int>(threadIdx.x); id < choice.scored; id += kThreads) {
      const uint32_t key = key_of(weights, choice, id);
      const float weight = weight_of(weights, choice, id);
#pragma unroll
      for (uint32_t digit = 1; digit <= 3; digit++) {
        if (key >= least + digit * step) reached[digit - 1] += weight;
      }
    }
    for (int digit = 3; digit >= 1; digit--) {
      const float mass = block_sum<kWarps>(reached[digit - 1], sums + (3 * turn + digit - 1) * kWarps);
      if (mass < choice.mass) continue;
      least += static_cast<uint32_t>(digit) * step;
      break;
    }
  }
  return least;
}

// The least key of those that the largest weight leaves. of_warps: [kWarps].
__device__ __forceinline__ uint32_t least_of_largest(const float* weights, const GranuleChoice& choice,
                                                     Shared<float> of_warps) {
  float largest = 0.0f;
  for (int id = static_cast<int>(threadIdx.x); id < choice.scored; id += kThreads) {
    largest = fmaxf(largest, weight_of(weights, choice, id));
  }
  largest = lane_max<kWarpLanes / 2>(largest);
  if (lane_index() == 0) of_warps[warp_index()] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; w++) largest = fmaxf(largest, of_warps[w]);
  return largest > 0.0f ? granule_key(largest * choice.of_largest) : 0;
}

__device__ __forceinline__ int lanes_in(uint32_t votes) { return __popc(votes); }
__device__ __forceinline__ int lanes_before(uint32_t votes, int lane) { return __popc(votes & ((1u << lane) - 1)); }

// Block (KV head). A warp has consecutive granules, by 32.
__global__ void __launch_bounds__(kThreads) choose_of_head(ChooseLaunch a) {
  SPILLWAY_SHARED(uint64_t, totals, 2 * kWarps);
  SPILLWAY_SHARED(int, above_of, kWarps);
  SPILLWAY_SHARED(int, equal_of, kWarps);
  SPILLWAY_SHARED(float, sums, 7 * kWarps);
  const GranuleChoice choice = *a.choice;
  const float* weights = reinterpret_cast<const float*>(a.weights + blockIdx.x * a.weights_stride);
  int32_t* ids = reinterpret_cast<int32_t*>(a.ids + blockIdx.x * a.ids_stride);
  const uint32_t by_count = least_chosen(weights, choice, totals);
  uint32_t least = by_count;
  if (choice.mass > 0.0f) {
    const uint32_t key = least_of_mass(weights, choice, sums);
    least = key > least ? key : least;
  }
  if (choice.of_largest > 0.0f) {
    const uint32_t key = least_of_largest(weights, choice, sums + 6 * kWarps);
    least = key > least ? key : least;
  }

  const int lane = lane_index();
  const int warp = warp_index();
  const int of_warp = (choice.granules + kThreads - 1) / kThreads * kWarpLanes;
  const int begin = warp * of_warp;
  const int end = begin + of_warp < choice.granules ? begin + of_warp : choice.granules;
  int above = 0;
  int equal = 0;
  for (int first = begin; first < end; first += kWarpLanes) {
    const bool there = first + lane < end;
    const uint32_t key = there ? key_of(weights, choice, first + lane) : 0;
    above += lanes_in(__ballot_sync(kAllLanes, there && key > least));
    equal += lanes_in(__ballot_sync(kAllLanes, there && key == least));
  }
  if (lane == 0) {
    above_of[warp] = above;
    equal_of[warp] = equal;
  }
  __syncthreads();
  int all_above = 0;
  int all_equal = 0;
  int above_before = 0;
  int equal_before = 0;
  for (int w = 0; w < kWarps; w++) {
    all_above += above_of[w];
    all_equal += equal_of[w];
    if (w < warp) above_before += above_of[w];
    if (w < warp) equal_before += equal_of[w];
  }
  const int equals = least == by_count ? choice.count - all_above : choice.granules;  // that are chosen, at most
  const int all = all_above + (all_equal < equals ? all_equal : equals);
  for (int i = all + static_cast<int>(threadIdx.x); i < choice.count; i += kThreads) ids[i] = kNoGranule;
  for (int first = begin; first < end; first += kWarpLanes) {
    const bool there = first + lane < end;
    const uint32_t key = there ? key_of(weights, choice, first + lane) : 0;
    const uint32_t is_above = __ballot_sync(kAllLanes, there && key > least);
    const uint32_t is_equal = __ballot_sync(kAllLanes, there && key == least);
    const int rank = equal_before + lanes_before(is_equal, lane);
    const int place = above_before + lanes_before(is_above, lane) + (rank < equals ? rank : equals);
    const bool chosen = there && (key > least || (key == least && rank < equals));
    if (chosen) ids[place] = first + lane;
    above_before += lanes_in(is_above);
    equal_before += lanes_in(is_equal);
  }
}

}  // namespace

cudaError_t launch_choose_granules(cudaStream_t stream, const CudaChooseGranules& args) {
  if (args.kv_heads == 0) return cudaSuccess;
  const ChooseLaunch a = {.weights = args.weights,
                          .ids = args.ids,
                          .weights_stride = args.weights_stride,
                          .ids_stride = args.ids_stride,
                          .choice = args.choice};
  return launch(choose_of_head, dim3(static_cast<uint32_t>(args.kv_heads)), dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
