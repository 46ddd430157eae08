// How much of the attention each granule would have (kernels/selection.h), in four kernels: the partial queries; the
// scores of each page as weights exp(score - largest), with its largest and the sum; what a page's weights are
// multiplied by to be shares of one softmax; and the sums of granules. All of them keep what they make in the rows of
// the scratch, one for each query head: [rank], [pages x 64], [pages x 2].
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;

struct ScoreLaunch {
  const std::byte* const* rows;
  const int32_t* tokens;
  const std::byte* q;
  const std::byte* basis;
  std::byte* scores;
  std::byte* weights;
  uint64_t basis_stride;
  uint64_t scores_stride;
  uint64_t weights_stride;
  int64_t page_bytes;
  int first_row;
  int head_dim;
  int rank;
  int bits;
  int group;
  int granule_tokens;
  float scale;

  __device__ __forceinline__ int pages() const { return (*tokens + kPageTokens - 1) / kPageTokens; }
  __device__ __forceinline__ float* row(int64_t head) const {
    return reinterpret_cast<float*>(scores + head * scores_stride);
  }
  // Of each page the largest score, later what its weights are multiplied by; then their sum.
  __device__ __forceinline__ float* shares(int64_t head) const {
    return row(head) + rank + static_cast<int64_t>(pages()) * kPageTokens;
  }
};

// Block (query head, directions [kWarps * y, ...)): a warp to a direction.
__global__ void __launch_bounds__(kThreads) project_query(ScoreLaunch a) {
  const int64_t head = blockIdx.x;
  const int j = static_cast<int>(blockIdx.y) * kWarps + warp_index();
  if (j >= a.rank) return;
  const float* q = reinterpret_cast<const float*>(a.q) + head * a.head_dim;
  const float* direction = reinterpret_cast<const float*>(a.basis + (head / a.group * a.rank + j) * a.basis_stride);
  float sum = 0.0f;
  for (int i = lane_index(); i < a.head_dim; i += kWarpLanes) sum = fmaf(q[i], direction[i], sum);
  sum = lane_sum<kWarpLanes / 2>(sum);
  if (lane_index() == 0) a.row(head)[j] = sum;
}

// Numbers that lie in one 32-bit word of a partial key, as floats.
template <int kBits>
struct Word {
  static constexpr int kCount = 32 / kBits;
  __device__ __forceinline__ static void unpack(uint32_t word, float* values) {
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      if constexpr (kBits == 16) {
        values[i] = load_f16(static_cast<uint16_t>(word >> 16 * i & 0xffff));
      } else {
        values[i] = float_from_bits(0x4b000000u | (word >> kBits * i & ((1u << kBits) - 1))) - 0x1p23f;
      }
    }
  }
};

// A lane has two tokens of a page side by side, and reads the same word of both at once.
constexpr int kTokens = kPageTokens / kWarpLanes;
constexpr int kWordsAtOnce = 4;

// dots[t][g] = codes or halves of token t . partial query of head g. queries [kHeads x rank]. What no token has written
// is read, and not used: it is of the page.
template <int kBits, int kHeads>
__device__ __forceinline__ void multiply(const std::byte* page, int rank, Shared<float> queries,
                                         float (&dots)[kTokens][kHeads]) {
  constexpr int kCount = Word<kBits>::kCount;
  constexpr int kStep = kBits == 16 ? 2 : 1;  // words together: four numbers of a query are read at once
  const uint2* words = reinterpret_cast<const uint2*>(page) + lane_index();
  const int count = rank / kCount;
  for (int first = 0; first < count; first += kWordsAtOnce) {
    uint2 held[kWordsAtOnce];
#pragma unroll
    for (int w = 0; w < kWordsAtOnce; w++) {
      held[w] = first + w < count ? load_pair(words + (first + w) * kWarpLanes) : uint2{0, 0};
    }
#pragma unroll
    for (int w = 0; w < kWordsAtOnce; w += kStep) {
      if (first + w >= count) break;
      float keys[kTokens][kStep * kCount];
#pragma unroll
      for (int i = 0; i < kStep; i++) {
        Word<kBits>::unpack(held[w + i].x, keys[0] + i * kCount);
        Word<kBits>::unpack(held[w + i].y, keys[1] + i * kCount);
      }
#pragma unroll
      for (int g = 0; g < kHeads; g++) {
#pragma unroll
        for (int i = 0; i < kStep * kCount; i += 4) {
          const float4 query = load_floats(queries, g * rank + (first + w) * kCount + i);
#pragma unroll
          for (int t = 0; t < kTokens; t++) {
            dots[t][g] = fmaf(query.x, keys[t][i], dots[t][g]);
            dots[t][g] = fmaf(query.y, keys[t][i + 1], dots[t][g]);
            dots[t][g] = fmaf(query.z, keys[t][i + 2], dots[t][g]);
            dots[t][g] = fmaf(query.w, keys[t][i + 3], dots[t][g]);
          }
        }
      }
    }
  }
}

// The group's partial queries [kHeads x rank], zero beyond its heads, and the sum of each.
template <int kHeads>
__device__ __forceinline__ void load_queries(const ScoreLaunch& a, int64_t head, int heads, Shared<float> queries,
                                             Shared<float> sums) {
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * a.rank; i += kThreads) {
    queries[i] = i / a.rank < heads ? a.row(head + i / a.rank)[i % a.rank] : 0.0f;
  }
  __syncthreads();
  for (int g = warp_index(); g < kHeads; g += kWarps) {
    float sum = 0.0f;
    for (int j = lane_index(); j < a.rank; j += kWarpLanes) sum += queries[g * a.rank + j];
    sum = lane_sum<kWarpLanes / 2>(sum);
    if (lane_index() == 0) sums[g] = sum;
  }
  __syncthreads();
}

// Block (kWarps page rows, KV head, kHeads of its group): a warp to a page.
template <int kBits, int kHeads>
__global__ void __launch_bounds__(kThreads, 2) score_pages(ScoreLaunch a) {
  SPILLWAY_SHARED(float, sums, kHeads);
  const Shared<float> queries = dynamic_shared<float>(0, kHeads * a.rank);
  const int64_t kv_head = blockIdx.y;
  const int first_of_group = static_cast<int>(blockIdx.z) * kHeads;
  const int heads = a.group - first_of_group < kHeads ? a.group - first_of_group : kHeads;
  const int64_t head = kv_head * a.group + first_of_group;
  const int row = static_cast<int>(blockIdx.x) * kWarps;
  const int all_tokens = *a.tokens;
  if ((a.first_row + row) * kPageTokens >= all_tokens) return;
  load_queries<kHeads>(a, head, heads, queries, sums);

  const int page_index = a.first_row + row + warp_index();
  const int left = all_tokens - page_index * kPageTokens;
  const int tokens = left < kPageTokens ? left : kPageTokens;
  if (tokens <= 0) return;
  const int lane = lane_index();
  const std::byte* page = a.rows[row + warp_index()] + kv_head * a.page_bytes;
  float dots[kTokens][kHeads] = {};
  multiply<kBits, kHeads>(page, a.rank, queries, dots);
  float scale[kTokens];
  float minimum[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; t++) {
    scale[t] = 1.0f;
    minimum[t] = 0.0f;
    const int token = kTokens * lane + t;
    if (kBits == 16 || token >= tokens) continue;
    const uint32_t group = reinterpret_cast<const uint32_t*>(page)[a.rank * kBits / 32 * kPageTokens + token];
    scale[t] = load_f16(static_cast<uint16_t>(group & 0xffff));
    minimum[t] = load_f16(static_cast<uint16_t>(group >> 16));
  }
#pragma unroll
  for (int g = 0; g < kHeads; g++) {
    if (g >= heads) break;
    float scores[kTokens];
    float largest = -INFINITY;
#pragma unroll
    for (int t = 0; t < kTokens; t++) {
      const float score = kBits == 16 ? dots[t][g] : fmaf(dots[t][g], scale[t], minimum[t] * sums[g]);
      scores[t] = kTokens * lane + t < tokens ? score * a.scale : -INFINITY;
      largest = fmaxf(largest, scores[t]);
    }
    largest = lane_max<kWarpLanes / 2>(largest);
    float* to = a.row(head + g) + a.rank + static_cast<int64_t>(page_index) * kPageTokens;
    float sum = 0.0f;
#pragma unroll
    for (int t = 0; t < kTokens; t++) {
      const bool there = kTokens * lane + t < tokens;
      const float weight = there ? exp_of_negative(scores[t] - largest) : 0.0f;
      to[kTokens * lane + t] = weight;
      sum += weight;
    }
    sum = lane_sum<kWarpLanes / 2>(sum);
    if (lane == 0) {
      float* share = a.shares(head + g) + 2 * page_index;
      share[0] = largest;
      share[1] = sum;
    }
  }
}

// Block (query head).
__global__ void __launch_bounds__(kThreads) share_softmax(ScoreLaunch a) {
  SPILLWAY_SHARED(float, of_warps, kWarps);
  SPILLWAY_SHARED(float, warp_sums, kWarps);
  const int pages = a.pages();
  float* shares = a.shares(blockIdx.x);
  float largest = -INFINITY;
  for (int i = static_cast<int>(threadIdx.x); i < pages; i += kThreads) largest = fmaxf(largest, shares[2 * i]);
  largest = lane_max<kWarpLanes / 2>(largest);
  if (lane_index() == 0) of_warps[warp_index()] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; w++) largest = fmaxf(largest, of_warps[w]);
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < pages; i += kThreads) {
    sum = fmaf(exp_of_negative(shares[2 * i] - largest), shares[2 * i + 1], sum);
  }
  const float total = block_sum<kWarps>(sum, warp_sums);
  for (int i = static_cast<int>(threadIdx.x); i < pages; i += kThreads) {
    shares[2 * i] = exp_of_negative(shares[2 * i] - largest) / total;
  }
}

// Block (granules [kThreads * x, ...), KV head): a thread to a granule.
__global__ void __launch_bounds__(kThreads) sum_granules(ScoreLaunch a) {
  const int granule = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int first = granule * a.granule_tokens;
  const int all_tokens = *a.tokens;
  if (first >= all_tokens) return;
  const int64_t kv_head = blockIdx.y;
  const int count = all_tokens - first < a.granule_tokens ? all_tokens - first : a.granule_tokens;
  float weight = 0.0f;
  for (int64_t head = kv_head * a.group; head < (kv_head + 1) * a.group; head++) {
    const float* weights = a.row(head) + a.rank + first;
    float sum = 0.0f;
    for (int t = 0; t < count; t++) sum += weights[t];
    weight = fmaf(sum, a.shares(head)[first / kPageTokens * 2], weight);
  }
  reinterpret_cast<float*>(a.weights + kv_head * a.weights_stride)[granule] = weight;
}

template <int kBits, int kHeads>
cudaError_t launch_heads(cudaStream_t stream, const ScoreLaunch& a, int rows, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(ceil_div(rows, kWarps)), static_cast<uint32_t>(kv_heads),
                  static_cast<uint32_t>(ceil_div(a.group, kHeads)));
  const size_t shared = static_cast<size_t>(kHeads) * a.rank * sizeof(float);
  return launch(score_pages<kBits, kHeads>, grid, dim3(kThreads), shared, stream, a);
}

template <int kBits>
cudaError_t launch_bits(cudaStream_t stream, const ScoreLaunch& a, int rows, int kv_heads) {
  if (a.group == 1) return launch_heads<kBits, 1>(stream, a, rows, kv_heads);
  if (a.group == 2) return launch_heads<kBits, 2>(stream, a, rows, kv_heads);
  if (a.group <= 4) return launch_heads<kBits, 4>(stream, a, rows, kv_heads);
  return launch_heads<kBits, 8>(stream, a, rows, kv_heads);
}

}  // namespace

cudaError_t launch_score_keys(cudaStream_t stream, const CudaScoreKeys& args) {
  const int kv_heads = args.format.kv_heads;
  const int heads = args.shape.heads;
  if (args.rows_count == 0) return cudaSuccess;
  const ScoreLaunch a = {.rows = args.rows,
                         .tokens = args.tokens,
                         .q = args.q.data,
                         .basis = args.basis.queries.data,
                         .scores = args.scores,
                         .weights = args.weights,
                         .basis_stride = args.basis.queries.stride,
                         .scores_stride = args.scores_stride,
                         .weights_stride = args.weights_stride,
                         .page_bytes = static_cast<int64_t>(args.format.page_bytes()),
                         .first_row = args.first_row,
                         .head_dim = args.shape.format.head_dim,
                         .rank = args.format.rank,
                         .bits = args.format.bits,
                         .group = heads / kv_heads,
                         .granule_tokens = args.granule_tokens,
                         .scale = args.shape.scale};
  if (args.first_row == 0) {
    const dim3 grid(static_cast<uint32_t>(heads), static_cast<uint32_t>(ceil_div(a.rank, kWarps)));
    const cudaError_t error = launch(project_query, grid, dim3(kThreads), 0, stream, a);
    if (error != cudaSuccess) return error;
  }
  const cudaError_t error = args.format.bits == 16  ? launch_bits<16>(stream, a, args.rows_count, kv_heads)
                            : args.format.bits == 8 ? launch_bits<8>(stream, a, args.rows_count, kv_heads)
                                                    : launch_bits<4>(stream, a, args.rows_count, kv_heads);
  if (error != cudaSuccess || !args.last) return error;
  const cudaError_t shared = launch(share_softmax, dim3(static_cast<uint32_t>(heads)), dim3(kThreads), 0, stream, a);
  if (shared != cudaSuccess) return shared;
  const int64_t granules = (int64_t{args.first_row} + args.rows_count) * (kPageTokens / args.granule_tokens);
  const dim3 grid(static_cast<uint32_t>(ceil_div(granules, kThreads)), static_cast<uint32_t>(kv_heads));
  return launch(sum_granules, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
