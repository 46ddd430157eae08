// Full KV pages, packed (kernels/kv_codec.h): a thread block to the keys or the values of one head. First each thread
// finds the scales of some groups, then it makes the codes of some pieces of 8 channels.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/kv_codec.h"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostGroups = kPageTokens * (kCudaMostHeadDim / 8);

struct SealLaunch {
  const SealRun* runs;
  PackedPage packed;
  int64_t page_bytes;
};

// `count` halves, `step` elements apart.
__device__ __forceinline__ GroupScale scale_of_group(const uint16_t* elements, int count, int step, int bits) {
  float smallest = INFINITY;
  float largest = -INFINITY;
  bool finite = true;
#pragma unroll 8
  for (int i = 0; i < count; i++) {
    const uint16_t half = elements[i * step];
    const float value = load_f16(half);
    finite = finite && is_finite_f16(half);
    smallest = fminf(smallest, value);
    largest = fmaxf(largest, value);
  }
  return group_scale(smallest, largest, finite, bits);
}

// The codes of 8 channels to the bytes that they fill.
__device__ __forceinline__ void store_codes(const uint32_t (&codes)[8], int bits, std::byte* to) {
  uint32_t low = 0;
  uint32_t high = 0;  // the last four of 8 bits
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t code = codes[i] << (i * bits & 31);
    if (i >= 4 && bits == 8) {
      high |= code;
    } else {
      low |= code;
    }
  }
  if (bits == 2) {
    *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(low);
  } else {
    *reinterpret_cast<uint32_t*>(to) = low;
  }
  if (bits == 8) *reinterpret_cast<uint32_t*>(to + 4) = high;
}

// Block (run, head, keys or values).
__global__ void __launch_bounds__(kThreads) seal_pages(SealLaunch a) {
  SPILLWAY_SHARED(float, minima, kMostGroups);
  SPILLWAY_SHARED(float, inverses, kMostGroups);
  const PackedPage& p = a.packed;
  const bool value = blockIdx.z == 1;
  const bool per_channel = !value && p.header_bytes > 0;
  const SealRun run = a.runs[blockIdx.x];
  const std::byte* page = run.from + blockIdx.y * a.page_bytes + (value ? a.page_bytes / 2 : 0);
  std::byte* packed = run.to + blockIdx.y * static_cast<int64_t>(p.bytes());
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(page);
  const int groups_of_token = p.head_dim / p.group;
  const int groups = per_channel ? p.head_dim : kPageTokens * groups_of_token;
  for (int i = static_cast<int>(threadIdx.x); i < groups; i += kThreads) {
    const int token = i / groups_of_token;
    const int in_token = i % groups_of_token;
    const GroupScale scale = per_channel
                                 ? scale_of_group(halves + i, kPageTokens, p.head_dim, p.bits)
                                 : scale_of_group(halves + token * p.head_dim + in_token * p.group, p.group, 1, p.bits);
    std::byte* to = packed + (per_channel ? 4 * i : p.scales(token, value) + 4 * in_token);
    *reinterpret_cast<uint32_t*>(to) = scale.scale | static_cast<uint32_t>(scale.minimum) << 16;
    minima[i] = f16_to_f32(scale.minimum);
    inverses[i] = inverse_of(scale);
  }
  __syncthreads();
  const int pieces = p.head_dim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kPageTokens * pieces; i += kThreads) {
    const int token = i / pieces;
    const int channel = i % pieces * 8;
    const uint4 loaded = load_cached(page + 16 * i);
    const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    uint32_t codes[8];
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int group = per_channel ? channel + c : token * groups_of_token + channel / p.group;
      const float x = load_f16(static_cast<uint16_t>(words[c / 2] >> 16 * (c % 2) & 0xffff));
      codes[c] = code_of(x, minima[group], inverses[group], p.bits);
    }
    store_codes(codes, p.bits, packed + p.codes(token, value) + channel / 8 * p.bits);
  }
}

}  // namespace

cudaError_t launch_seal(cudaStream_t stream, const CudaSeal& args) {
  const KvFormat& format = args.format;
  SPILLWAY_CHECK(format.packs() && format.dtype == DType::f16);
  if (args.runs_count == 0) return cudaSuccess;
  if (!can_pack(format.head_dim) || format.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  const SealLaunch a = {
      .runs = args.runs, .packed = format.packed_page(), .page_bytes = static_cast<int64_t>(format.page_bytes())};
  const dim3 grid(static_cast<uint32_t>(args.runs_count), static_cast<uint32_t>(format.kv_heads), 2);
  return launch(seal_pages, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
