// What the kernels for many rows of x share. A thread block computes a tile of the product: some rows of the weight by
// some rows of x. Which tile is chosen by how many thread blocks keep the machine busy; every result is added up in the
// same order whatever the tile, along k alone.
#pragma once

#include "kernels/cuda/matvec.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {

// Of the device in use.
struct Hardware {
  int compute_major = 0;
  int multiprocessors = 0;
};

// Rows of x by rows of the weight.
enum class Tile : uint8_t { x128_rows128, x64_rows64, x32_rows32, x16_rows32 };

// The largest tile that is not mostly past the rows of x and gives most multiprocessors something to do.
Tile choose_tile(const CudaMatvec& arguments, DType type, int rows_of_x, const Hardware& hardware);

// One element of the product, if it exists.
__device__ __forceinline__ void write_result(const MatvecWeight& weight, int row, int x_row, int rows_of_x, float sum) {
  if (row >= weight.rows || x_row >= rows_of_x) return;
  float* out = reinterpret_cast<float*>(weight.out + x_row * weight.out_stride) + row;
  *out = weight.add ? *out + sum : sum;
}

// Q8_0, Q4_0 and Q4_1.
cudaError_t launch_matmul_quantized(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                    const Hardware& hardware);
// The other block formats.
cudaError_t launch_matmul_blocks(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                 const Hardware& hardware);
// F16 and, from compute capability 8.0 on, BF16. The scratch takes one float for each row of x.
cudaError_t launch_matmul_half(cudaStream_t stream, const CudaMatvec& arguments, DType type, const MatvecShape& shape,
                               const Hardware& hardware);

}  // namespace spillway::cuda
