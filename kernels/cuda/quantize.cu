// Rows of x to int8 codes, by blocks of 32.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void note_scale(const QuantizedX& out, int row, int block, float scale, int sum) {
  out.scales[static_cast<int64_t>(row) * out.blocks + block] = {scale, sum};
}
__device__ __forceinline__ void note_scale(const TiledX& out, int row, int block, float scale, int sum) {
  out.scales[static_cast<int64_t>(block) * out.rows + row] = {scale, scale * static_cast<float>(sum)};
}

__device__ __forceinline__ void note_scale(const CodesForExperts& out, int row, int block, float scale, int sum) {
  note_scale(out.few, row, block, scale, sum);
  note_scale(out.many, row, block, scale, sum);
}

// A thread to 4 elements.
template <bool kAligned, typename Out, typename Which>
__global__ void __launch_bounds__(kThreads) quantize_rows(MatvecRows x, Out out, Which which) {
  const int first = 4 * static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const int row = which.row();
  if (row < 0) return;
  const float* source = reinterpret_cast<const float*>(x.data + row * x.stride);
  float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
  if (first < x.cols) {  // a multiple of 32 columns: all 4 or none
    if constexpr (kAligned) {
      v = load_floats(source + first);
    } else {
      v = {source[first], source[first + 1], source[first + 2], source[first + 3]};
    }
  }
  const CodedFour coded(v);
  if (first >= x.cols) return;
  reinterpret_cast<uint32_t*>(out.codes)[(static_cast<int64_t>(row) * x.cols + first) / 4] = coded.codes;
  if (first % kBlockElements == 0) note_scale(out, row, first / kBlockElements, coded.scale, coded.sum);
}

struct RowInTurn {
  __device__ __forceinline__ int row() const { return static_cast<int>(blockIdx.x); }
};

struct RowIfHere {
  RowsOfExperts rows;
  __device__ __forceinline__ int row() const {
    const int place = rows.first_place + static_cast<int>(blockIdx.x);
    return rows.here(place) ? place : -1;
  }
};

template <typename Out, typename Which>
cudaError_t launch_into(cudaStream_t stream, const MatvecShape& shape, const Out& out, const Which& which, int rows) {
  if (shape.x.cols == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(rows), static_cast<uint32_t>(ceil_div(shape.x.cols, 4 * kThreads)));
  return launch(shape.x_aligned ? quantize_rows<true, Out, Which> : quantize_rows<false, Out, Which>, grid,
                dim3(kThreads), 0, stream, shape.x, out, which);
}

}  // namespace

cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const QuantizedX& out) {
  return launch_into(stream, shape, out, RowInTurn{}, shape.rows_of_x);
}
cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const TiledX& out) {
  return launch_into(stream, shape, out, RowInTurn{}, shape.rows_of_x);
}

cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const RowsOfExperts& rows, int places) {
  return launch_into(stream, shape, CodesForExperts::in(shape), RowIfHere{rows}, places);
}

}  // namespace spillway::cuda
