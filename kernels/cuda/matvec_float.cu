// Matrix-vector products with F16, BF16 and F32 weights. A warp takes four rows of the weight, or one of `splits`
// shares of them, in steps of 16 bytes to a lane; the loads of the next step are in flight while this one is
// multiplied.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/expert_rows.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matvec.cuh"

namespace spillway::cuda {
namespace {

template <int kElements>
__device__ __forceinline__ void load_x(const float* x, int count, bool aligned, float* values) {
  if (aligned && count >= kElements) {
#pragma unroll
    for (int i = 0; i < kElements; i += 4) {
      const float4 v = load_floats(x + i);
      values[i] = v.x;
      values[i + 1] = v.y;
      values[i + 2] = v.z;
      values[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kElements; i++) values[i] = i < count ? x[i] : 0.0f;
  }
}

// The rows of x that blockIdx.y stands for with the rows of the weights that blockIdx.x does.
template <typename Weight, int kX, typename Rows>
__global__ void __launch_bounds__(kMatvecThreads)
    matvec_float(const __grid_constant__ MatvecWeights weights, MatvecShape shape, Rows rows) {
  constexpr int kElements = Weight::kCount;
  constexpr int kElementBytes = 16 / kElements;
  constexpr int kRows = matvec_step(Weight::kType).rows;
  constexpr int kStep = kWarpLanes * kElements;
  static_assert(kStep == matvec_step(Weight::kType).elements);
  SPILLWAY_SHARED(float, partial, kMatvecWarps* kRows* kX);
  const int lane = lane_index();
  const int warp = warp_index();
  const int cols = shape.x.cols;
  const MatvecWeight& part = weights.of_block(static_cast<int>(blockIdx.x));
  MatvecWeight weight = part;
  const RowRange range = rows.template of_block<kX>(weight);
  if (range.first >= range.end) return;
  const int first_row = (static_cast<int>(blockIdx.x) - weight.first_block) * (kMatvecWarps / shape.splits) * kRows;
  const int first_x = range.first;
  const std::byte* row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; r++) row[r] = weight.row(first_row + warp / shape.splits * kRows + r);

  float acc[kRows * kX] = {};
  uint4 held[kRows];
  const int begin = warp % shape.splits * kStep + lane * kElements;
  if (begin < cols) {
#pragma unroll
    for (int r = 0; r < kRows; r++) held[r] = load_elements<Weight>(row[r] + begin * kElementBytes, cols - begin);
  }
  for (int e = begin; e < cols; e += shape.splits * kStep) {
    float w[kRows][kElements];
#pragma unroll
    for (int r = 0; r < kRows; r++) Weight::unpack(held[r], w[r]);
    const int next = e + shape.splits * kStep;
    if (next < cols) {
#pragma unroll
      for (int r = 0; r < kRows; r++) held[r] = load_elements<Weight>(row[r] + next * kElementBytes, cols - next);
    }
#pragma unroll
    for (int j = 0; j < kX; j++) {
      const std::byte* x_row = shape.x.data + min_of(first_x + j, range.end - 1) * shape.x.stride;
      float x[kElements];
      load_x<kElements>(reinterpret_cast<const float*>(x_row) + e, cols - e, shape.x_aligned, x);
#pragma unroll
      for (int r = 0; r < kRows; r++) {
#pragma unroll
        for (int i = 0; i < kElements; i++) acc[r * kX + j] = fmaf(w[r][i], x[i], acc[r * kX + j]);
      }
    }
  }

  lane_sums<kRows * kX, 16>(acc, lane);
  if (writes_sum<kRows * kX, 16>(lane)) partial[warp * kRows * kX + summed_index<kRows * kX, 16>(lane)] = acc[0];
  __syncthreads();
  write_results<kRows, kX>(part, partial, shape.splits, first_row, first_x, range.end);
}

template <typename Weight, int kX>
cudaError_t launch_tiles(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  const dim3 grid(static_cast<uint32_t>(weights.grid_blocks), static_cast<uint32_t>(ceil_div(shape.rows_of_x, kX)));
  return launch(matvec_float<Weight, kX, EveryRow>, grid, dim3(kMatvecThreads), 0, stream, weights, shape,
                EveryRow{shape.rows_of_x});
}

template <typename Weight>
cudaError_t launch_places(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape,
                          const RowsOfExperts& rows, int places) {
  const dim3 grid(static_cast<uint32_t>(weights.grid_blocks), static_cast<uint32_t>(places));
  // One row of x goes to experts that all differ.
  const auto kernel =
      shape.one_row ? matvec_float<Weight, 1, RowsOfExperts> : matvec_float<Weight, kMatvecRowsOfX, RowsOfExperts>;
  return launch(kernel, grid, dim3(kMatvecThreads), 0, stream, weights, shape, rows);
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  if (shape.rows_of_x == 1) return launch_tiles<Weight, 1>(stream, weights, shape);
  if (shape.rows_of_x == 2) return launch_tiles<Weight, 2>(stream, weights, shape);
  if (shape.rows_of_x <= 4) return launch_tiles<Weight, 4>(stream, weights, shape);
  return launch_tiles<Weight, kMatvecRowsOfX>(stream, weights, shape);
}

}  // namespace

cudaError_t launch_matvec_float(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                const MatvecShape& shape) {
  switch (type) {
    case DType::f32:
      return launch_type<ElementsF32>(stream, weights, shape);
    case DType::f16:
      return launch_type<ElementsF16>(stream, weights, shape);
    default:
      return launch_type<ElementsBf16>(stream, weights, shape);
  }
}

cudaError_t launch_experts_float(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                 const MatvecShape& shape, const RowsOfExperts& rows, int places) {
  switch (type) {
    case DType::f32:
      return launch_places<ElementsF32>(stream, weights, shape, rows, places);
    case DType::f16:
      return launch_places<ElementsF16>(stream, weights, shape, rows, places);
    default:
      return launch_places<ElementsBf16>(stream, weights, shape, rows, places);
  }
}

}  // namespace spillway::cuda
