// Partial keys (kernels/selection.h) of new tokens: a thread block to a few tokens of one KV head. A thread adds up a
// direction's products for several tokens, channels ascending, so that each number of the basis is read once for them;
// then a warp packs a token.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/kv_codec.h"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kTokens = 16;          // of a thread block
constexpr int kTokensOfAThread = 4;  // at once

struct PartialKeysLaunch {
  const PartialKeyRun* runs;
  const std::byte* basis;
  const std::byte* mean;
  uint64_t basis_stride;
  uint64_t mean_stride;
  int64_t page_bytes;
  int64_t partial_bytes;  // of a head's page
  int head_dim;
  int rank;
  int bits;
};

// keys [kTokens x head_dim]: the tokens' keys without their mean; absent tokens are zero.
__device__ __forceinline__ void load_keys(const PartialKeysLaunch& a, const std::byte* page, const float* mean,
                                          int tokens, Shared<float> keys) {
  const int pieces = a.head_dim / ElementsF16::kCount;
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * pieces; i += kThreads) {
    const int channel = i % pieces * ElementsF16::kCount;
    float values[ElementsF16::kCount];
    ElementsF16::unpack(i / pieces < tokens ? load_stream(page + int64_t{16} * i) : uint4{0, 0, 0, 0}, values);
#pragma unroll
    for (int e = 0; e < ElementsF16::kCount; e++) {
      keys[i / pieces * a.head_dim + channel + e] = i / pieces < tokens ? values[e] - mean[channel + e] : 0.0f;
    }
  }
}

__device__ __forceinline__ void project(const PartialKeysLaunch& a, int kv_head, Shared<float> keys,
                                        Shared<float> partial) {
  for (int i = static_cast<int>(threadIdx.x); i < a.rank * (kTokens / kTokensOfAThread); i += kThreads) {
    const int j = i % a.rank;
    const int first = i / a.rank * kTokensOfAThread;
    const float* direction =
        reinterpret_cast<const float*>(a.basis + (static_cast<int64_t>(kv_head) * a.rank + j) * a.basis_stride);
    float sums[kTokensOfAThread] = {};
#pragma unroll 2
    for (int c = 0; c < a.head_dim; c += 4) {
      const float d[4] = {direction[c], direction[c + 1], direction[c + 2], direction[c + 3]};
#pragma unroll
      for (int t = 0; t < kTokensOfAThread; t++) {
        const float4 key = load_floats(keys, (first + t) * a.head_dim + c);
        sums[t] = fmaf(key.x, d[0], sums[t]);
        sums[t] = fmaf(key.y, d[1], sums[t]);
        sums[t] = fmaf(key.z, d[2], sums[t]);
        sums[t] = fmaf(key.w, d[3], sums[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < kTokensOfAThread; t++) partial[(first + t) * a.rank + j] = sums[t];
  }
}

__device__ __forceinline__ float lane_min(float value) { return -lane_max<kWarpLanes / 2>(-value); }

// The warp's token, to the page of partial keys at `to`.
__device__ __forceinline__ void store_key(const PartialKeysLaunch& a, Shared<float> key, int token, std::byte* to) {
  const int lane = lane_index();
  uint32_t* words = reinterpret_cast<uint32_t*>(to) + token;  // kPageTokens apart (PartialKeyFormat)
  if (a.bits == 16) {
    for (int word = lane; word < a.rank / 2; word += kWarpLanes) {
      words[word * kPageTokens] = f32_to_f16(key[2 * word]) | static_cast<uint32_t>(f32_to_f16(key[2 * word + 1]))
                                                                  << 16;
    }
    return;
  }
  float smallest = INFINITY;
  float largest = -INFINITY;
  bool finite = true;
  for (int j = lane; j < a.rank; j += kWarpLanes) {
    const float x = key[j];
    smallest = fminf(smallest, x);
    largest = fmaxf(largest, x);
    finite = finite && fits_f16(x);
  }
  smallest = lane_min(smallest);
  largest = lane_max<kWarpLanes / 2>(largest);
  finite = __all_sync(kAllLanes, finite) != 0;
  const GroupScale group = group_scale(smallest, largest, finite, a.bits);
  const int in_a_word = 32 / a.bits;
  const int scales = a.rank / in_a_word * kPageTokens;
  if (lane == 0) words[scales] = group.scale | static_cast<uint32_t>(group.minimum) << 16;
  const float minimum = f16_to_f32(group.minimum);
  const float inverse = inverse_of(group);
  for (int word = lane; word < a.rank / in_a_word; word += kWarpLanes) {
    uint32_t packed = 0;
    for (int i = 0; i < in_a_word; i++) {
      packed |= code_of(key[word * in_a_word + i], minimum, inverse, a.bits) << i * a.bits;
    }
    words[word * kPageTokens] = packed;
  }
}

// Block (run, KV head, tokens [kTokens * z, ...) of it).
__global__ void __launch_bounds__(kThreads) make_partial_keys(PartialKeysLaunch a) {
  const PartialKeyRun run = a.runs[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.z) * kTokens;
  const int tokens = run.count - first < kTokens ? run.count - first : kTokens;
  if (tokens <= 0) return;
  const Shared<float> keys = dynamic_shared<float>(0, kTokens * a.head_dim);
  const Shared<float> partial =
      dynamic_shared<float>(kTokens * a.head_dim * static_cast<int>(sizeof(float)), kTokens * a.rank);
  const std::byte* page = run.page_row + kv_head * a.page_bytes;
  load_keys(a, page + static_cast<int64_t>(run.first_token + first) * a.head_dim * 2,
            reinterpret_cast<const float*>(a.mean + kv_head * a.mean_stride), tokens, keys);
  __syncthreads();
  project(a, kv_head, keys, partial);
  __syncthreads();
  for (int t = warp_index(); t < tokens; t += kWarps) {
    store_key(a, partial + t * a.rank, run.first_token + first + t, run.partial + kv_head * a.partial_bytes);
  }
}

}  // namespace

cudaError_t launch_partial_keys(cudaStream_t stream, const CudaPartialKeys& args) {
  const KvFormat& kv = args.kv;
  SPILLWAY_CHECK(kv.dtype == DType::f16 && args.format.rank % 8 == 0);
  if (args.runs_count == 0 || args.rows == 0) return cudaSuccess;
  if (kv.head_dim % 8 != 0 || kv.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  const PartialKeysLaunch a = {.runs = args.runs,
                               .basis = args.basis.keys.data,
                               .mean = args.basis.mean.data,
                               .basis_stride = args.basis.keys.stride,
                               .mean_stride = args.basis.mean.stride,
                               .page_bytes = static_cast<int64_t>(kv.page_bytes()),
                               .partial_bytes = static_cast<int64_t>(args.format.page_bytes()),
                               .head_dim = kv.head_dim,
                               .rank = args.format.rank,
                               .bits = args.format.bits};
  const dim3 grid(static_cast<uint32_t>(args.runs_count), static_cast<uint32_t>(kv.kv_heads),
                  static_cast<uint32_t>(ceil_div(args.rows, kTokens)));
  return launch(make_partial_keys, grid, dim3(kThreads), kTokens * (kv.head_dim + args.format.rank) * sizeof(float),
                stream, a);
}

}  // namespace spillway::cuda
