// What the matrix-vector kernels share: the weights of one launch, and how a matrix is dealt out to warps.
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/module.h"

namespace spillway::cuda {

inline constexpr int kMatvecWarps = 4;
inline constexpr int kMatvecThreads = kMatvecWarps * kWarpLanes;
inline constexpr int kMatvecParts = 4;
inline constexpr int kMatvecRowsOfX = kCudaMatvecRows;  // at most, for one reading of the weight

__host__ __device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

// How many of the 16 bytes at `piece` lie before `end`.
__device__ __forceinline__ int bytes_before(const std::byte* piece, const std::byte* end) {
  const int64_t left = end - piece;
  if (left >= 16) return 16;
  return left > 0 ? static_cast<int>(left) : 0;
}

struct MatvecWeight {
  const std::byte* data;
  const std::byte* end;  // of the last row
  std::byte* out;
  uint64_t stride;
  uint64_t out_stride;
  int rows;
  int row_bytes;
  int first_block;  // of the grid in x
  int index;        // of the part
  bool add;

  // Past the last row, the last one again: every warp has the same steps, and what it should not have is not written.
  __device__ __forceinline__ const std::byte* row(int r) const {
    return data + static_cast<uint64_t>(min_of(r, rows - 1)) * stride;
  }
};

// Matrices of one type that share x and a launch.
struct MatvecWeights {
  MatvecWeight part[kMatvecParts];
  int count;
  int grid_blocks;

  // In the launch's parameters, which lie in constant memory: what is wanted at the end is read there, and takes no
  // register until then.
  __device__ __forceinline__ const MatvecWeight& of_block(int block) const {
    int index = 0;
#pragma unroll
    for (int p = 1; p < kMatvecParts; p++) {
      if (p < count && block >= part[p].first_block) index = p;
    }
    return part[index];
  }
};

struct MatvecRows {
  const std::byte* data;
  uint64_t stride;
  int cols;
};

struct MatvecShape {
  MatvecRows x;
  int rows_of_x;
  bool x_aligned;  // to 16 bytes, each row
  std::byte* scratch;
  int splits = 1;        // warps that share a row of the weight
  bool one_row = false;  // of experts: each has one row of x at most
};

// Writes the sums of a thread block: its `splits` warps to a row added in order, a thread to a result. partial: what
// each warp has, kRows x kX.
template <int kRows, int kX>
__device__ __forceinline__ void write_results(const MatvecWeight& weight, Shared<float> partial, int splits,
                                              int first_row, int first_x, int rows_of_x) {
  constexpr int kResults = kRows * kX;
  const int groups = kMatvecWarps / splits;
  for (int i = static_cast<int>(threadIdx.x); i < groups * kResults; i += kMatvecThreads) {
    const int group = i / kResults;
    const int row = first_row + group * kRows + i % kResults / kX;
    const int x_row = first_x + i % kX;
    if (row >= weight.rows || x_row >= rows_of_x) continue;
    float sum = partial[group * splits * kResults + i % kResults];
    for (int s = 1; s < splits; s++) sum += partial[(group * splits + s) * kResults + i % kResults];
    float* out = reinterpret_cast<float*>(weight.out + x_row * weight.out_stride) + row;
    *out = weight.add ? *out + sum : sum;
  }
}

// Rows of a weight that one warp takes, and elements of a row in one step of it.
struct MatvecStep {
  int rows;
  int elements;
};
constexpr MatvecStep matvec_step(DType type) {
  switch (type) {
    case DType::q8_0:
      return {2, 32 * kBlockElements};
    case DType::f32:
      return {4, 32 * 4};
    case DType::f16:
    case DType::bf16:
      return {4, 32 * 8};
    case DType::q5_0:
    case DType::q5_1:
    case DType::q5_k:
      return {2, 32 * kBlockElements};
    case DType::q3_k:
    case DType::q6_k:  // two 32s to a lane: the bytes of 8 blocks are a multiple of 16, those of 4 are none
      return {2, 64 * kBlockElements};
    default:
      return {4, 32 * kBlockElements};
  }
}

inline bool is_quantized(DType type) { return info(type).block_elements > 1; }

// ---- what the launchers of products share

// Shapes and scratch; an error for a type that no kernel reads.
cudaError_t check_parts(const CudaMatvec& arguments);
bool has_quantized_part(const CudaMatvec& arguments);
MatvecShape shape_of(const CudaMatvec& arguments);
// Warps that share a row of the weight.
int splits_of(DType type, int cols);
// The parts of one type, laid side by side along the grid in blocks of so many rows.
MatvecWeights gather_parts(const CudaMatvec& arguments, DType type, int rows_per_block);
// The parts of one type by the matrix-vector kernels; where they are quantised, x has been too.
cudaError_t launch_matvec_type(cudaStream_t stream, const CudaMatvec& arguments, DType type, const MatvecShape& shape);

// Weights of the type, once for every tile of rows of x.
cudaError_t launch_matvec_quantized(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                    const MatvecShape& shape);
cudaError_t launch_matvec_float(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                const MatvecShape& shape);

}  // namespace spillway::cuda
