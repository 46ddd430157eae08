// A router's choice of experts, and the way of rows to them and back.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kElements = 4;  // of a thread
constexpr int kMostBlocks = 1 << 15;

struct Routes {
  int32_t* first;
  int32_t* chosen;
  int32_t* place;
  int32_t* expert;
  float* weight;
  int experts;
  int used;
  int places;
};

Routes routes_of(const ExpertRoutes& r) {
  return {.first = r.first(),
          .chosen = r.chosen(),
          .place = r.place(),
          .expert = r.expert(),
          .weight = r.weight(),
          .experts = r.experts,
          .used = r.used,
          .places = static_cast<int>(r.places())};
}

// What is no number is below all; zeros are equal, whatever their sign.
__device__ __forceinline__ float value_of(float logit) {
  return logit != logit ? float_from_bits(0xff800000u) : logit + 0.0f;
}

// Larger for larger logits, and among equals for lower numbers: all keys of a row differ, and none is 0.
__device__ __forceinline__ uint64_t key_of(float logit, int expert) {
  const uint32_t bits = float_bits(value_of(logit));
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(expert);
}

// The largest key of the row below `bound`.
__device__ __forceinline__ uint64_t largest_below(const float* logits, int experts, uint64_t bound) {
  uint64_t best = 0;
  for (int e = lane_index(); e < experts; e += kWarpLanes) {
    const uint64_t key = key_of(logits[e], e);
    if (key < bound && key > best) best = key;
  }
#pragma unroll
  for (int offset = kWarpLanes / 2; offset >= 1; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, offset);
    best = other > best ? other : best;
  }
  return best;
}

// A warp to a row. The chosen are those whose key reaches the used-th largest.
__global__ void __launch_bounds__(kWarpLanes)
    choose_experts(const std::byte* logits_data, uint64_t stride, Routes routes, bool normalise) {
  const int lane = lane_index();
  const int row = static_cast<int>(blockIdx.x);
  const float* logits = reinterpret_cast<const float*>(logits_data + row * stride);
  uint64_t floor = ~uint64_t{0};
  float largest = 0.0f;
  for (int i = 0; i < routes.used; i++) {
    floor = largest_below(logits, routes.experts, floor);
    if (i == 0) largest = value_of(logits[static_cast<int>(~static_cast<uint32_t>(floor))]);
  }
  const auto share = [&](int e) {
    const float value = value_of(logits[e]);
    return value == largest ? 1.0f : exp_of_negative(value - largest);
  };
  float sum = 0.0f;
  for (int e = lane; e < routes.experts; e += kWarpLanes) {
    if (!normalise || key_of(logits[e], e) >= floor) sum += share(e);
  }
  sum = lane_sum<kWarpLanes / 2>(sum);
  int before = 0;  // chosen so far
  for (int base = 0; base < routes.experts; base += kWarpLanes) {
    const int e = base + lane;
    const bool taken = e < routes.experts && key_of(logits[e], e) >= floor;
    int count = taken ? 1 : 0;
#pragma unroll
    for (int lanes = 1; lanes < kWarpLanes; lanes *= 2) {
      const int below = __shfl_up_sync(kAllLanes, count, static_cast<unsigned>(lanes));
      if (lane >= lanes) count += below;
    }
    if (taken) {
      const int at = row * routes.used + before + count - 1;
      routes.chosen[at] = e;
      routes.weight[at] = share(e) / sum;
    }
    before += __shfl_sync(kAllLanes, count, kWarpLanes - 1);
  }
}

// A thread to an expert: its first place is the number of choices of lower ones, and its places follow in the order of
// the rows. No counter is shared, so the order is the same every time.
__global__ void __launch_bounds__(kWarpLanes) deal_out(Routes routes) {
  const int e = static_cast<int>(blockIdx.x * kWarpLanes + threadIdx.x);
  if (e > routes.experts) return;
  int place = 0;
  for (int i = 0; i < routes.places; i++) place += routes.chosen[i] < e ? 1 : 0;
  routes.first[e] = place;
  if (e == routes.experts) return;
  for (int i = 0; i < routes.places; i++) {
    if (routes.chosen[i] != e) continue;
    routes.place[i] = place;
    routes.expert[place] = e;
    place++;
  }
}

struct MovedRows {
  std::byte* x;
  std::byte* rows;
  uint64_t x_stride;
  uint64_t rows_stride;
  int cols;
  int first;  // choice, or row of x, of the grid
};

// Block (choice, b): elements [kElements * kThreads * b, ...) of the row, neighbours by neighbouring threads.
__global__ void __launch_bounds__(kThreads) copy_to_places(MovedRows m, Routes routes) {
  const int choice = m.first + static_cast<int>(blockIdx.x);
  const float* from = reinterpret_cast<const float*>(m.x + choice / routes.used * m.x_stride);
  float* to = reinterpret_cast<float*>(m.rows + routes.place[choice] * m.rows_stride);
  const int first = static_cast<int>(blockIdx.y * kElements * kThreads + threadIdx.x);
#pragma unroll
  for (int i = 0; i < kElements; i++) {
    const int at = first + i * kThreads;
    if (at < m.cols) to[at] = from[at];
  }
}

__global__ void __launch_bounds__(kThreads) add_places(MovedRows m, Routes routes) {
  const int row = m.first + static_cast<int>(blockIdx.x);
  float* x = reinterpret_cast<float*>(m.x + row * m.x_stride);
  const int first = static_cast<int>(blockIdx.y * kElements * kThreads + threadIdx.x);
  float sums[kElements] = {};
  for (int choice = row * routes.used; choice < (row + 1) * routes.used; choice++) {
    const float* from = reinterpret_cast<const float*>(m.rows + routes.place[choice] * m.rows_stride);
    const float weight = routes.weight[choice];
#pragma unroll
    for (int i = 0; i < kElements; i++) {
      const int at = first + i * kThreads;
      if (at < m.cols) sums[i] = fmaf(weight, from[at], sums[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kElements; i++) {
    const int at = first + i * kThreads;
    if (at < m.cols) x[at] += sums[i];
  }
}

// For `count` rows of the grid, as many at a time as a grid has.
cudaError_t launch_moved(cudaStream_t stream, void (*kernel)(MovedRows, Routes), const View& x, const View& rows,
                         const ExpertRoutes& routes, int64_t count) {
  MovedRows m = {.x = x.data,
                 .rows = rows.data,
                 .x_stride = x.stride,
                 .rows_stride = rows.stride,
                 .cols = static_cast<int>(x.cols),
                 .first = 0};
  cudaError_t error = cudaSuccess;
  const auto columns = static_cast<uint32_t>(ceil_div(x.cols, kElements * kThreads));
  for (int64_t first = 0; first < count && error == cudaSuccess; first += kMostBlocks) {
    m.first = static_cast<int>(first);
    const auto blocks = static_cast<uint32_t>(count - first < kMostBlocks ? count - first : kMostBlocks);
    error = launch(kernel, dim3(blocks, columns), dim3(kThreads), 0, stream, m, routes_of(routes));
  }
  return error;
}

}  // namespace

cudaError_t launch_route(cudaStream_t stream, const CudaRoute& a) {
  SPILLWAY_CHECK(a.logits.dtype == DType::f32 && a.x.dtype == DType::f32 && a.rows.dtype == DType::f32);
  SPILLWAY_CHECK(a.routes.places() < INT32_MAX);
  const Routes routes = routes_of(a.routes);
  cudaError_t error = cudaSuccess;
  if (a.routes.rows > 0) {
    error = launch(choose_experts, dim3(static_cast<uint32_t>(a.routes.rows)), dim3(kWarpLanes), 0, stream,
                   static_cast<const std::byte*>(a.logits.data), a.logits.stride, routes, a.normalise);
  }
  if (error == cudaSuccess) {
    error = launch(deal_out, dim3(static_cast<uint32_t>(ceil_div(a.routes.experts + 1, kWarpLanes))), dim3(kWarpLanes),
                   0, stream, routes);
  }
  if (error != cudaSuccess || a.x.cols == 0) return error;
  return launch_moved(stream, copy_to_places, a.x, a.rows, a.routes, a.routes.places());
}

cudaError_t launch_combine(cudaStream_t stream, const CudaCombine& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.rows.dtype == DType::f32 && a.rows.cols == a.x.cols);
  if (a.x.cols == 0) return cudaSuccess;
  return launch_moved(stream, add_places, a.x, a.rows, a.routes, a.routes.rows);
}

}  // namespace spillway::cuda
