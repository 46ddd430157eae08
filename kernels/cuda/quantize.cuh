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

// For rows that go to experts, of which some are read by one and some by the other: both.
struct CodesForExperts {
  std::byte* codes;
  QuantizedX few;
  TiledX many;

  static CodesForExperts in(const MatvecShape& shape) {
    const QuantizedX few = QuantizedX::in(shape);
    auto* behind = reinterpret_cast<TileScale*>(few.scales + static_cast<int64_t>(few.rows) * few.blocks);
    return {few.codes, few, {few.codes, behind, few.rows, few.blocks}};
  }
};

// The largest magnitude of a block / 127, from its bits; one that is not finite stays so, and makes the result so.
struct BlockScale {
  float scale;
  float inverse;

  __device__ __forceinline__ explicit BlockScale(uint32_t largest)
      : scale(float_from_bits(largest) / 127.0f), inverse(scale != 0.0f ? 1.0f / scale : 0.0f) {}
  __device__ __forceinline__ int code(float element) const {
    return clamped_code(rintf(element * inverse), -127.0f, 127.0f);
  }
};

// Magnitudes compare as integers, NaN above all.
__device__ __forceinline__ uint32_t magnitude_bits(float element) { return float_bits(element) & 0x7fffffffu; }

// Of the lanes that differ in bits up to kHighest.
template <int kHighest>
__device__ __forceinline__ uint32_t largest_of_lanes(uint32_t value) {
#pragma unroll
  for (int offset = kHighest; offset >= 1; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}
template <int kHighest>
__device__ __forceinline__ int sum_of_lanes(int value) {
#pragma unroll
  for (int offset = kHighest; offset >= 1; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Four elements to a lane, a block of 32 to 8 lanes side by side. All lanes of the warp take part.
struct CodedFour {
  uint32_t codes;
  float scale;
  int sum;  // of the block's codes

  __device__ __forceinline__ explicit CodedFour(const float4& v) : codes(0), sum(0) {
    uint32_t largest = 0;
    for (const float e : {v.x, v.y, v.z, v.w}) {
      largest = magnitude_bits(e) > largest ? magnitude_bits(e) : largest;
    }
    const BlockScale block(largest_of_lanes<4>(largest));
    int shift = 0;
    for (const float e : {v.x, v.y, v.z, v.w}) {
      const int code = block.code(e);
      codes |= (static_cast<uint32_t>(code) & 0xffu) << shift;
      sum += code;
      shift += 8;
    }
    scale = block.scale;
    sum = sum_of_lanes<4>(sum);
  }
};

// Where an operation leaves the codes of the rows it writes, for the product that reads them next; codes null: nowhere.
// The layout is that of `matvec` for its few rows, of `matmul` for more.
struct CodesOfRows {
  std::byte* codes;
  std::byte* scales;
  int rows;
  int cols;  // a multiple of 32
  bool tiled;

  static CodesOfRows in(std::byte* scratch, const View& out) {
    return {scratch, scratch == nullptr ? nullptr : scratch + out.rows * out.cols, static_cast<int>(out.rows),
            static_cast<int>(out.cols), out.rows > kCudaMatvecRows};
  }
  __device__ __forceinline__ std::byte* code(int row, int column) const {
    return codes + static_cast<int64_t>(row) * cols + column;
  }
  __device__ __forceinline__ void note_scale(int row, int block, float scale, int sum) const {
    if (tiled) {
      reinterpret_cast<TileScale*>(scales)[static_cast<int64_t>(block) * rows + row] = {
          scale, scale * static_cast<float>(sum)};
    } else {
      reinterpret_cast<XScale*>(scales)[static_cast<int64_t>(row) * (cols / kBlockElements) + block] = {scale, sum};
    }
  }
  // Elements [first, first + 4) of a row; all lanes of the warp call it, those past the row's end with zeros.
  __device__ __forceinline__ void write_four(int row, int first, const float4& v) const {
    const CodedFour coded(v);
    if (first >= cols) return;
    *reinterpret_cast<uint32_t*>(code(row, first)) = coded.codes;
    if (first % kBlockElements == 0) note_scale(row, first / kBlockElements, coded.scale, coded.sum);
  }
  // One element to a lane, a block to a warp.
  __device__ __forceinline__ void write_one(int row, int column, float element) const {
    const BlockScale block(largest_of_lanes<16>(magnitude_bits(element)));
    const int value = block.code(element);
    const int sum = sum_of_lanes<16>(value);
    *reinterpret_cast<int8_t*>(code(row, column)) = static_cast<int8_t>(value);
    if (column % kBlockElements == 0) note_scale(row, column / kBlockElements, block.scale, sum);
  }
};

cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const QuantizedX& out);
cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const TiledX& out);
// Rows in places, of the experts that are here.
cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape, const RowsOfExperts& rows, int places);

}  // namespace spillway::cuda
