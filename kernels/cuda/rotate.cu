// Rotary position embedding (arXiv 2104.09864), in place, a thread to a pair of elements.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;

struct RotateRows {
  std::byte* x;
  const std::byte* table;
  uint64_t x_stride;
  uint64_t table_stride;
  int heads;
  int head_dim;
  int pairs;
  bool halves;
};

// Block (b, row): pairs [b * kThreads, ...) of the row, counted over its heads.
__global__ void __launch_bounds__(kThreads) rotate_rows(RotateRows rows) {
  const int index = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (index >= rows.heads * rows.pairs) return;
  const int head = index / rows.pairs;
  const int pair = index % rows.pairs;
  float* x = reinterpret_cast<float*>(rows.x + blockIdx.y * rows.x_stride) + head * rows.head_dim;
  const float* table = reinterpret_cast<const float*>(rows.table + blockIdx.y * rows.table_stride);
  turn_pair(x, table, pair, rows.pairs, rows.halves);
}

constexpr int kMostRows = 65535;  // of a grid in y

}  // namespace

cudaError_t launch_rotate(cudaStream_t stream, const CudaRotate& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.table.dtype == DType::f32 && a.table.rows == a.x.rows);
  SPILLWAY_CHECK(a.head_dim > 0 && a.x.cols % a.head_dim == 0 && a.table.cols % 2 == 0 && a.table.cols <= a.head_dim);
  const int heads = static_cast<int>(a.x.cols / a.head_dim);
  const int pairs = static_cast<int>(a.table.cols / 2);
  if (heads * pairs == 0) return cudaSuccess;
  for (int64_t row = 0; row < a.x.rows; row += kMostRows) {
    const RotateRows rows = {.x = a.x.row(row),
                             .table = a.table.row(row),
                             .x_stride = a.x.stride,
                             .table_stride = a.table.stride,
                             .heads = heads,
                             .head_dim = a.head_dim,
                             .pairs = pairs,
                             .halves = a.style == RotationStyle::halves};
    const int64_t count = a.x.rows - row < kMostRows ? a.x.rows - row : kMostRows;
    const dim3 grid(static_cast<uint32_t>(ceil_div(heads * pairs, kThreads)), static_cast<uint32_t>(count));
    const cudaError_t error = launch(rotate_rows, grid, dim3(kThreads), 0, stream, rows);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace spillway::cuda
