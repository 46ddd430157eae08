// Partial softmax states (kernels/kv_span.h) into attention's result: a block of threads to 128
// elements of a head of a row. The largest maximum first, then every state scaled to it, in ascending order. Where a
// product reads the rows next, they are quantised for it on the way.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kAtOnce = kThreads;  // states whose factors are held

struct MergeLaunch {
  const MergeTask* tasks;
  const std::byte* states;
  std::byte* out;
  uint64_t states_stride;
  uint64_t out_stride;
  int head_dim;
  CodesOfRows codes;
};

// Block (task, head, elements [kThreads * z, ...) of it).
__global__ void __launch_bounds__(kThreads) merge_states(MergeLaunch a) {
  SPILLWAY_SHARED(float, warp_max, kWarps);
  SPILLWAY_SHARED(float, factors, kAtOnce);
  const MergeTask task = a.tasks[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int state_floats = attn_state_floats(a.head_dim);
  const auto state = [&](int i) {
    return reinterpret_cast<const float*>(a.states + (task.first_slot + i) * a.states_stride) + head * state_floats;
  };
  float largest = -INFINITY;
  for (int i = thread; i < task.count; i += kThreads) largest = fmaxf(largest, state(i)[a.head_dim]);
  largest = lane_max<16>(largest);
  if (lane_index() == 0) warp_max[warp_index()] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; w++) largest = fmaxf(largest, warp_max[w]);

  // Of the thread's own element; every thread sums the sums of exponentials.
  const int element = static_cast<int>(blockIdx.z) * kThreads + thread;
  const bool mine = element < a.head_dim;
  float result = 0.0f;
  float sum = 0.0f;
  for (int first = 0; first < task.count; first += kAtOnce) {
    const int count = task.count - first < kAtOnce ? task.count - first : kAtOnce;
    if (thread < count) {
      const float max = state(first + thread)[a.head_dim];
      factors[thread] = max == -INFINITY ? 0.0f : exp_of_negative(max - largest);  // the empty state is skipped
    }
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < count; i++) {
      const float* values = state(first + i);
      const float factor = factors[i];
      sum = fmaf(values[a.head_dim + 1], factor, sum);
      if (mine) result = fmaf(values[element], factor, result);
    }
    __syncthreads();
  }
  float* out = reinterpret_cast<float*>(a.out + task.row * a.out_stride) + head * a.head_dim;
  const float value = sum == 0.0f ? 0.0f : result / sum;
  if (mine) out[element] = value;
  // Heads are whole blocks of 32 then: a warp has one, or nothing.
  if (mine && a.codes.codes != nullptr) a.codes.write_one(task.row, head * a.head_dim + element, value);
}

}  // namespace

cudaError_t launch_merge(cudaStream_t stream, const CudaMerge& args) {
  const KvFormat& format = args.shape.format;
  const int heads = args.shape.heads;
  SPILLWAY_CHECK(args.states.dtype == DType::f32 && args.out.dtype == DType::f32);
  SPILLWAY_CHECK(args.states.cols == static_cast<int64_t>(heads) * attn_state_floats(format.head_dim));
  SPILLWAY_CHECK(args.out.cols == static_cast<int64_t>(heads) * format.head_dim);
  SPILLWAY_CHECK(args.codes == nullptr || format.head_dim % kBlockElements == 0);
  if (args.tasks_count == 0) return cudaSuccess;
  const MergeLaunch a = {.tasks = args.tasks,
                         .states = args.states.data,
                         .out = args.out.data,
                         .states_stride = args.states.stride,
                         .out_stride = args.out.stride,
                         .head_dim = format.head_dim,
                         .codes = CodesOfRows::in(args.codes, args.out)};
  const dim3 grid(static_cast<uint32_t>(args.tasks_count), static_cast<uint32_t>(heads),
                  static_cast<uint32_t>(ceil_div(format.head_dim, kThreads)));
  return launch(merge_states, grid, dim3(kThreads), 0, stream, a);
}

}  // namespace spillway::cuda
