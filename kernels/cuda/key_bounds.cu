// Bounds of keys, and what granules could weigh by them (Ops::key_bounds, Ops::score_bounds). Scores take three
// kernels: each granule's bound; the shares of one softmax, head by head; and their sums over a group.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;

struct BoundsLaunch {
  const PartialKeyRun* runs;
  int64_t page_bytes;
  int64_t bounds_bytes;  // of a head's page
  int head_dim;
  int granule_tokens;
};

// Block (run, KV head): a thread to a granule's channel.
__global__ void __launch_bounds__(kThreads) make_bounds(BoundsLaunch a) {
  const PartialKeyRun run = a.runs[blockIdx.x];
  if (run.count == 0) return;
  const int end = run.first_token + run.count;
  const int first = run.first_token / a.granule_tokens;
  const int granules = (end + a.granule_tokens - 1) / a.granule_tokens - first;
  const auto* keys = reinterpret_cast<const uint16_t*>(run.page_row + blockIdx.y * a.page_bytes);
  auto* bounds = reinterpret_cast<uint16_t*>(run.partial + blockIdx.y * a.bounds_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < granules * a.head_dim; i += kThreads) {
    const int granule = first + i / a.head_dim;
    const int channel = i % a.head_dim;
    const int last = (granule + 1) * a.granule_tokens < end ? (granule + 1) * a.granule_tokens : end;
    float smallest = INFINITY;
    float largest = -INFINITY;
    for (int token = granule * a.granule_tokens; token < last; token++) {
      const float key = load_f16(keys[token * a.head_dim + channel]);
      smallest = fminf(smallest, key);
      largest = fmaxf(largest, key);
    }
    bounds[2 * granule * a.head_dim + channel] = f32_to_f16(smallest);
    bounds[(2 * granule + 1) * a.head_dim + channel] = f32_to_f16(largest);
  }
}

struct ScoreBoundsLaunch {
  const std::byte* const* rows;
  const int32_t* tokens;
  const std::byte* q;
  std::byte* scores;
  std::byte* weights;
  uint64_t scores_stride;
  uint64_t weights_stride;
  int64_t bounds_bytes;
  int first_row;
  int head_dim;
  int group;
  int granule_tokens;
  float scale;

  __device__ __forceinline__ int granules() const { return (*tokens + granule_tokens - 1) / granule_tokens; }
  __device__ __forceinline__ float* row(int64_t head) const {
    return reinterpret_cast<float*>(scores + head * scores_stride);
  }
};

// Block (page row, KV head): a warp to a granule.
__global__ void __launch_bounds__(kThreads) score_granules(ScoreBoundsLaunch a) {
  const int of_page = kPageTokens / a.granule_tokens;
  const int page = a.first_row + static_cast<int>(blockIdx.x);
  const int left = a.granules() - page * of_page;
  if (left <= 0) return;
  const int64_t kv_head = blockIdx.y;
  const auto* bounds = reinterpret_cast<const uint16_t*>(a.rows[blockIdx.x] + kv_head * a.bounds_bytes);
  for (int granule = warp_index(); granule < of_page && granule < left; granule += kWarps) {
    const uint16_t* smallest = bounds + 2 * granule * a.head_dim;
    const uint16_t* largest = smallest + a.head_dim;
    for (int64_t head = kv_head * a.group; head < (kv_head + 1) * a.group; head++) {
      const float* q = reinterpret_cast<const float*>(a.q) + head * a.head_dim;
      float sum = 0.0f;
      for (int i = lane_index(); i < a.head_dim; i += kWarpLanes) {
        sum += fmaxf(q[i] * load_f16(smallest[i]), q[i] * load_f16(largest[i]));
      }
      sum = lane_sum<kWarpLanes / 2>(sum);
      if (lane_index() == 0) a.row(head)[page * of_page + granule] = sum * a.scale;
    }
  }
}

// Block (query head): scores become shares.
__global__ void __launch_bounds__(kThreads) share_bounds(ScoreBoundsLaunch a) {
  SPILLWAY_SHARED(float, of_warps, kWarps);
  SPILLWAY_SHARED(float, warp_sums, kWarps);
  float* scores = a.row(blockIdx.x);
  const int granules = a.granules();
  float largest = -INFINITY;
  for (int i = static_cast<int>(threadIdx.x); i < granules; i += kThreads) largest = fmaxf(largest, scores[i]);
  largest = lane_max<kWarpLanes / 2>(largest);
  if (lane_index() == 0) of_warps[warp_index()] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; w++) largest = fmaxf(largest, of_warps[w]);
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < granules; i += kThreads) {
    scores[i] = exp_of_negative(scores[i] - largest);
    sum += scores[i];
  }
  const float total = block_sum<kWarps>(sum, warp_sums);
  for (int i = static_cast<int>(threadIdx.x); i < granules; i += kThreads) scores[i] = scores[i] / total;
}

// Block (granules [kThreads * x, ...), KV head): a thread to a granule.
__global__ void __launch_bounds__(kThreads) sum_group(ScoreBoundsLaunch a) {
  const int granule = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (granule >= a.granules()) return;
  const int64_t kv_head = blockIdx.y;
  float weight = 0.0f;
  for (int64_t head = kv_head * a.group; head < (kv_head + 1) * a.group; head++) weight += a.row(head)[granule];
  reinterpret_cast<float*>(a.weights + kv_head * a.weights_stride)[granule] = weight;
}

}  // namespace

cudaError_t launch_key_bounds(cudaStream_t stream, const CudaKeyBounds& args) {
  if (args.runs_count == 0) return cudaSuccess;
  const KeyBoundsFormat format = {args.kv.kv_heads, args.kv.head_dim, args.granule_tokens};
  const BoundsLaunch a = {.runs = args.runs,
                          .page_bytes = static_cast<int64_t>(args.kv.page_bytes()),
                          .bounds_bytes = static_cast<int64_t>(format.page_bytes()),
                          .head_dim = args.kv.head_dim,
                          .granule_tokens = args.granule_tokens};
  const dim3 grid(static_cast<uint32_t>(args.runs_count), static_cast<uint32_t>(args.kv.kv_heads));
  return launch(make_bounds, grid, dim3(kThreads), 0, stream, a);
}

cudaError_t launch_score_bounds(cudaStream_t stream, const CudaScoreBounds& args) {
  if (args.rows_count == 0) return cudaSuccess;
  const KvFormat& kv = args.shape.format;
  const KeyBoundsFormat format = {kv.kv_heads, kv.head_dim, args.granule_tokens};
  const ScoreBoundsLaunch a = {.rows = args.rows,
                               .tokens = args.tokens,
                               .q = args.q.data,
                               .scores = args.scores,
                               .weights = args.weights,
                               .scores_stride = args.scores_stride,
                               .weights_stride = args.weights_stride,
                               .bounds_bytes = static_cast<int64_t>(format.page_bytes()),
                               .first_row = args.first_row,
                               .head_dim = kv.head_dim,
                               .group = args.shape.heads / kv.kv_heads,
                               .granule_tokens = args.granule_tokens,
                               .scale = args.shape.scale};
  const auto kv_heads = static_cast<uint32_t>(kv.kv_heads);
  const dim3 pages(static_cast<uint32_t>(args.rows_count), kv_heads);
  const cudaError_t error = launch(score_granules, pages, dim3(kThreads), 0, stream, a);
  if (error != cudaSuccess || !args.last) return error;
  const dim3 heads(static_cast<uint32_t>(args.shape.heads));
  const cudaError_t shared = launch(share_bounds, heads, dim3(kThreads), 0, stream, a);
  if (shared != cudaSuccess) return shared;
  const int64_t granules = (int64_t{args.first_row} + args.rows_count) * format.granules();
  const dim3 grid(static_cast<uint32_t>(ceil_div(granules, kThreads)), kv_heads);
  return launch(sum_group, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
