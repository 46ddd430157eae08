// Matrix-vector products for a few rows of x: which kernels run, and how a matrix is dealt out.
//
// A group of 1, 2 or 4 warps, by the type and the width of the matrix alone, shares its rows. So the order of additions
// in a result never depends on its address, on the number of rows of x, on what shares the call, or on the grid.
#include <algorithm>
#include <iterator>

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matvec.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {

// As many as have a step to do, up to the thread block.
int splits_of(DType type, int cols) {
  const int steps = ceil_div(cols, matvec_step(type).elements);
  return steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}

MatvecWeights gather_parts(const CudaMatvec& a, DType type, int rows_per_block) {
  MatvecWeights weights = {};
  for (int p = 0; p < a.parts_count; p++) {
    const MatmulPart& part = a.parts[p];
    if (part.weight.dtype != type || part.weight.rows == 0) continue;
    weights.part[weights.count++] = {.data = part.weight.data,
                                     .end = part.weight.row(part.weight.rows - 1) + row_bytes(type, part.weight.cols),
                                     .out = part.out.data,
                                     .stride = part.weight.stride,
                                     .out_stride = part.out.stride,
                                     .rows = static_cast<int>(part.weight.rows),
                                     .row_bytes = static_cast<int>(row_bytes(type, part.weight.cols)),
                                     .first_block = weights.grid_blocks,
                                     .index = p,
                                     .add = part.add};
    weights.grid_blocks += ceil_div(part.weight.rows, rows_per_block);
  }
  return weights;
}

cudaError_t check_parts(const CudaMatvec& a) {
  SPILLWAY_CHECK(a.x.dtype == DType::f32 && a.parts_count <= kMatvecParts);
  for (int p = 0; p < a.parts_count; p++) {
    const MatmulPart& part = a.parts[p];
    if (std::ranges::find(kWeightTypes, part.weight.dtype) == std::end(kWeightTypes)) return cudaErrorNotSupported;
    SPILLWAY_CHECK(part.weight.cols == a.x.cols && part.out.dtype == DType::f32);
    SPILLWAY_CHECK(part.out.rows == a.x.rows && part.out.cols == part.weight.rows);
    if (!is_quantized(part.weight.dtype)) continue;
    SPILLWAY_CHECK(a.x.cols % info(part.weight.dtype).block_elements == 0 &&
                   a.scratch_bytes >= cuda_matvec_scratch_bytes(a.x.rows, a.x.cols));
    SPILLWAY_CHECK(reinterpret_cast<uintptr_t>(a.scratch) % 16 == 0);
  }
  return cudaSuccess;
}

bool has_quantized_part(const CudaMatvec& a) {
  return std::any_of(a.parts, a.parts + a.parts_count,
                     [](const MatmulPart& p) { return is_quantized(p.weight.dtype); });
}

MatvecShape shape_of(const CudaMatvec& a) {
  return {.x = {a.x.data, a.x.stride, static_cast<int>(a.x.cols)},
          .rows_of_x = static_cast<int>(a.x.rows),
          .x_aligned = aligned16(a.x),
          .scratch = a.scratch};
}

cudaError_t launch_matvec_type(cudaStream_t stream, const CudaMatvec& a, DType type, const MatvecShape& shape) {
  MatvecShape sized = shape;
  sized.splits = splits_of(type, shape.x.cols);
  const MatvecWeights weights = gather_parts(a, type, kMatvecWarps / sized.splits * matvec_step(type).rows);
  if (weights.count == 0) return cudaSuccess;
  return is_quantized(type) ? launch_matvec_quantized(stream, type, weights, sized)
                            : launch_matvec_float(stream, type, weights, sized);
}

cudaError_t launch_matvec(cudaStream_t stream, const CudaMatvec& a) {
  cudaError_t error = check_parts(a);
  if (error != cudaSuccess || a.x.rows == 0) return error;
  const MatvecShape shape = shape_of(a);
  if (has_quantized_part(a) && !a.x_is_ready) error = launch_quantize(stream, shape, QuantizedX::in(shape));
  for (const DType type : kWeightTypes) {
    if (error == cudaSuccess) error = launch_matvec_type(stream, a, type, shape);
  }
  return error;
}

}  // namespace spillway::cuda
