// Which rows of x a thread block of a matrix-vector kernel takes, and of which weight: all rows in turn, or those of
// one expert, whose number and whose matrix are known on the device alone.
#pragma once

#include "kernels/cuda/matvec.cuh"
#include "kernels/experts.h"

namespace spillway::cuda {

// Rows [first, first + kX) of x are a thread block's own, as far as they lie before `end`.
struct RowRange {
  int first;
  int end;
};

struct EveryRow {
  int rows;

  template <int kX>
  __device__ __forceinline__ RowRange of_block(MatvecWeight&) const {
    return {static_cast<int>(blockIdx.y) * kX, rows};
  }
};

// Rows in the places of ExpertRoutes, a thread block to a place: those that stand in for no kX rows have none.
struct RowsOfExperts {
  const int32_t* first;   // of each expert
  const int32_t* expert;  // of each place
  const ExpertData* data;
  int first_place;   // of the grid
  int first_matrix;  // of ExpertData that is part 0
  int most_rows;     // experts with more have none here

  __device__ __forceinline__ bool here(int place) const { return data[expert[place]].here(); }
  __device__ __forceinline__ void find(MatvecWeight& weight, int e) const {
    weight.data = data[e].matrix[first_matrix + weight.index];
    weight.end = weight.data + (weight.rows - 1) * weight.stride + weight.row_bytes;
  }

  template <int kX>
  __device__ __forceinline__ RowRange of_block(MatvecWeight& weight) const {
    const int place = first_place + static_cast<int>(blockIdx.y);
    const int e = expert[place];
    if ((place - first[e]) % kX != 0 || first[e + 1] - first[e] > most_rows || !data[e].here()) return {0, 0};
    find(weight, e);
    return {place, first[e + 1]};
  }
};

// Parts of one type by the matrix-vector kernels, for `places` rows of the grid.
cudaError_t launch_experts_quantized(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                     const MatvecShape& shape, const RowsOfExperts& rows, int places);
cudaError_t launch_experts_float(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                 const MatvecShape& shape, const RowsOfExperts& rows, int places);

}  // namespace spillway::cuda
