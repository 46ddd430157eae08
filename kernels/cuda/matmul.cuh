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

  // Of types that are multiplied as they are.
  bool has_tensor_cores_for(DType type) const {
    return type == DType::f16 || (type == DType::bf16 && compute_major >= 8);
  }
};

// Rows of x by rows of the weight.
enum class Tile : uint8_t { x128_rows128, x64_rows64, x32_rows32, x16_rows32 };

cudaError_t ask(Hardware* hardware);

// The largest tile that is not mostly past the rows of x and gives most multiprocessors something to do.
Tile choose_tile(const CudaMatvec& arguments, DType type, int rows_of_x, const Hardware& hardware);

// Which rows of x a thread block takes, and of which weight: all rows in turn,
struct TilesInTurn {
  using Weight = const MatvecWeight&;
  static constexpr bool kMayBeEmpty = false;

  template <int kX>
  __device__ __forceinline__ RowRange range(int rows_of_x) const {
    return {static_cast<int>(blockIdx.x) * kX, rows_of_x};
  }
  __device__ __forceinline__ Weight find(Weight weight, int) const { return weight; }
};

// or those of the experts that are here and have more than rows.most_rows. How many an expert has is known on the
// device alone. So there are tiles(kX) thread blocks along x, as many as any choice takes: the tiles of expert e begin
// at number first[e] / kX + e, and where fewer follow before those of the next one, the others end at once.
struct TilesOfExperts {
  using Weight = MatvecWeight;
  static constexpr bool kMayBeEmpty = true;

  RowsOfExperts rows;
  int experts;
  int64_t places;

  int64_t tiles(int x) const { return places / x + experts; }
  template <int kX>
  __device__ __forceinline__ RowRange range(int) const {
    const int tile = static_cast<int>(blockIdx.x);
    int e = 0;  // the last whose tiles begin at this one or before
    for (int above = experts; above - e > 1;) {
      const int middle = (e + above) / 2;
      (rows.first[middle] / kX + middle <= tile ? e : above) = middle;
    }
    const int begin = rows.first[e], end = rows.first[e + 1];
    if (end - begin <= rows.most_rows || !rows.data[e].here()) return {0, 0};
    return {begin + (tile - begin / kX - e) * kX, end};
  }
  // `first`: of the range.
  __device__ __forceinline__ Weight find(const MatvecWeight& weight, int first) const {
    Weight found = weight;
    rows.find(found, rows.expert[first]);
    return found;
  }
};

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

// The same of experts, whose rows of x are those of all places.
cudaError_t launch_expert_tiles_quantized(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                          const TilesOfExperts& tiles);
cudaError_t launch_expert_tiles_blocks(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                       const TilesOfExperts& tiles);
cudaError_t launch_expert_tiles_half(cudaStream_t stream, const CudaMatvec& arguments, DType type,
                                     const MatvecShape& shape, const TilesOfExperts& tiles);
// By how many rows an expert has on average: the larger tile, or the smaller.
inline bool large_tiles(const TilesOfExperts& tiles) { return tiles.places > int64_t{32} * tiles.experts; }

}  // namespace spillway::cuda
