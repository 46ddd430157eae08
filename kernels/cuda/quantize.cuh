// Rows of x quantised to int8 by blocks of 32, in the scratch of a product. Codes lie row after row; what goes with a
// block, in the order in which its readers take it.
#pragma once

#include "kernels/cuda/expert_rows.cuh"

namespace spillway::cuda {

// For matrix-vector products: a lane takes a block, so the blocks of a row lie together.
struct XScale {
  float scale;
  int sum;  // of the codes
};

struct QuantizedX {
  std::byte* codes;  // [m x k]
  XScale* scales;    // [m x k / 32]
  int rows;
  int blocks;  // of 32 columns

  static QuantizedX in(const MatvecShape& shape) {
    const int64_t codes = static_cast<int64_t>(shape.rows_of_x) * shape.x.cols;
    return {shape.scratch, reinterpret_cast<XScale*>(shape.scratch + codes), shape.rows_of_x,
            shape.x.cols / kBlockElements};
  }
};

// For tiles: a tile takes the same block of many rows, so those lie together.
struct TileScale {
  float scale;
  float sum;  // scale times the sum of the codes
};

struct TiledX {
  std::byte* codes;   // [m x k]
  TileScale* scales;  // [k / 32 x m]
  int rows;
  int blocks;

  static TiledX in(const MatvecShape& shape) {
    const QuantizedX x = QuantizedX::in(shape);
    return {x.codes, reinterpret_cast<TileScale*>(x.scales), x.rows, x.blocks};
  }
};

cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const QuantizedX& out);
cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const TiledX& out);
// Rows in places, of the experts that are here.
cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const RowsOfExperts& rows, int places);

}  // namespace spillway::cuda
