// Products of many rows of x with F16 and BF16 weights, on the tensor cores' 16-bit products with 32-bit sums.
//
// x is f32, and is not rounded to the type of the weight: a float is the sum of two halves (22 bits; of rows scaled by
// a power of two, so that the largest element is near the top of the range) or of three bfloat16 (24 bits), found in
// registers as fragments are loaded, and each of those is multiplied (Markidis et al., arXiv 1803.04014). Sums inside
// the tensor cores are rounded towards zero, so that long ones would drift; therefore 32 columns at a time are added up
// there, from zero, and the result is added to a float outside (Ootomo and Yokota, arXiv 2203.03341), the columns in
// ascending order.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/matmul.cuh"

namespace spillway::cuda {
namespace {

constexpr int kStepCols = 32;
constexpr int kWeightWords = kStepCols / 2;  // of a row in a stage: 4 pieces of 16 bytes
constexpr int kXWords = kStepCols;           // 8 pieces

// ---- types: how two neighbouring floats become parts, the largest last, and which product takes them

struct HalfF16 {
  using Elements = ElementsF16;
  static constexpr int kParts = 2;
  static constexpr bool kScaled = true;
  __device__ __forceinline__ static void split(float low, float high, uint32_t (&parts)[kParts]) {
    parts[1] = pack_f16(low, high);
    parts[0] = pack_f16(low - load_f16(static_cast<uint16_t>(parts[1] & 0xffff)),
                        high - load_f16(static_cast<uint16_t>(parts[1] >> 16)));
  }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16(c, a, b0, b1);
  }
};

struct HalfBf16 {
  using Elements = ElementsBf16;
  static constexpr int kParts = 3;
  static constexpr bool kScaled = false;
  __device__ __forceinline__ static void split(float low, float high, uint32_t (&parts)[kParts]) {
#pragma unroll
    for (int p = kParts - 1; p >= 0; p--) {
      parts[p] = pack_bf16(low, high);
      low -= float_from_bits(parts[p] << 16);
      high -= float_from_bits(parts[p] & 0xffff0000u);
    }
  }
  __device__ __forceinline__ static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16(c, a, b0, b1);
  }
};

// ---- scales

// The power of two that brings the row's largest magnitude to [2^14, 2^15); 1 for a row of zeros, or not finite.
constexpr int kScaleWarps = 4;
__global__ void __launch_bounds__(kScaleWarps* kWarpLanes) scale_rows(MatvecRows x, int rows, float* scales) {
  const int row = static_cast<int>(blockIdx.x) * kScaleWarps + warp_index();
  if (row >= rows) return;
  const float* values = reinterpret_cast<const float*>(x.data + row * x.stride);
  uint32_t largest = 0;
  for (int i = lane_index(); i < x.cols; i += kWarpLanes) {
    const uint32_t magnitude = float_bits(values[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
#pragma unroll
  for (int offset = kWarpLanes / 2; offset >= 1; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, largest, offset);
    largest = other > largest ? other : largest;
  }
  const int exponent = static_cast<int>(largest >> 23);
  const int wanted = min_of(127 + 14 + 127 - exponent, 253);
  if (lane_index() == 0) {
    scales[row] = largest == 0 || exponent == 255 ? 1.0f : float_from_bits(static_cast<uint32_t>(wanted) << 23);
  }
}

// ---- tiles

// kRowWarps by kXWarps warps, each with kTiles fragments of 16 rows of the weight by kXTiles of 8 rows of x.
template <int kRowWarps_, int kXWarps_, int kTiles_, int kXTiles_, int kStages_>
struct Shape {
  static constexpr int kRowWarps = kRowWarps_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kXTiles = kXTiles_;
  static constexpr int kStages = kStages_;
  static constexpr int kThreads = kRowWarps_ * kXWarps_ * kWarpLanes;
  static constexpr int kRows = kRowWarps * kTiles * 16;
  static constexpr int kX = kXWarps_ * kXTiles * 8;
  static constexpr int kXAt = kRows * kWeightWords;  // words into a stage
  static constexpr int kWords = kXAt + kX * kXWords;
};

// Pieces of a row are exchanged by its index, so that the rows that are read together lie in different banks.
__device__ __forceinline__ int weight_word(int row, int piece) {
  return row * kWeightWords + (piece ^ (row / 2 % 4)) * 4;
}
__device__ __forceinline__ int x_word(int row, int piece) { return row * kXWords + (piece ^ (row % 4 * 2)) * 4; }

// Zero past the last column; past the last row the last again.
template <typename Half, typename Tile>
__device__ __forceinline__ void fetch_weight(Shared<uint32_t> stage, const MatvecWeight& weight, int first_row,
                                             int cols, int first_col) {
  const bool aligned = (reinterpret_cast<uintptr_t>(weight.data) | weight.stride) % 16 == 0;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * 4; i += Tile::kThreads) {
    const int col = first_col + i % 4 * 8;
    const int count = min_of(cols - col, 8);
    const std::byte* row = weight.row(first_row + i / 4);
    const int word = weight_word(i / 4, i % 4);
    if (aligned) {
      copy_async<16>(stage, word, count > 0 ? row + 2 * col : row, count > 0 ? 2 * count : 0);
    } else {
      store_words(stage, word, load_elements<typename Half::Elements>(row + 2 * col, count));
    }
  }
}

template <typename Tile>
__device__ __forceinline__ void fetch_x(Shared<uint32_t> stage, const MatvecShape& shape, const RowRange& range,
                                        int first_col) {
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kX * 8; i += Tile::kThreads) {
    const int col = first_col + i % 8 * 4;
    const int count = min_of(shape.x.cols - col, 4);
    const std::byte* row = shape.x.data + min_of(range.first + i / 8, range.end - 1) * shape.x.stride;
    const int word = Tile::kXAt + x_word(i / 8, i % 8);
    if (shape.x_aligned) {
      copy_async<16>(stage, word, count > 0 ? row + 4 * col : row, count > 0 ? 4 * count : 0);
    } else {
      for (int e = 0; e < 4; e++)
        copy_async<4>(stage, word + e, e < count ? row + 4 * (col + e) : row, e < count ? 4 : 0);
    }
  }
}

// Adds the step's 32 columns to acc. warp_row, warp_x: the warp's first rows within the tile.
template <typename Half, typename Tile>
__device__ __forceinline__ void multiply_step(Shared<uint32_t> stage, int warp_row, int warp_x,
                                              const float (&scale)[Tile::kXTiles],
                                              float (&acc)[Tile::kTiles][Tile::kXTiles][4]) {
  const int lane = lane_index();
  uint32_t a[Tile::kTiles][2][4];
#pragma unroll
  for (int i = 0; i < Tile::kTiles; i++) {
#pragma unroll
    for (int s = 0; s < 2; s++) {
      load_matrices(a[i][s], stage, weight_word(warp_row + i * 16 + lane % 16, 2 * s + lane / 16));
    }
  }
#pragma unroll
  for (int j = 0; j < Tile::kXTiles; j++) {
    uint32_t b[2][2][Half::kParts];
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      const int row = warp_x + j * 8 + lane / 4;
      const uint2 pair = load_pair(stage, Tile::kXAt + x_word(row, quarter * 2 + lane % 4 / 2) + lane % 2 * 2);
      Half::split(float_from_bits(pair.x) * scale[j], float_from_bits(pair.y) * scale[j], b[quarter / 2][quarter % 2]);
    }
#pragma unroll
    for (int i = 0; i < Tile::kTiles; i++) {
      float sum[4] = {};
#pragma unroll
      for (int part = 0; part < Half::kParts; part++) {
#pragma unroll
        for (int s = 0; s < 2; s++) Half::multiply(sum, a[i][s], b[s][0][part], b[s][1][part]);
      }
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] += sum[e];
    }
  }
}

// The rows of x that blockIdx.x stands for with the rows of the weights that blockIdx.y stands for.
template <typename Half, typename Tile, typename Tiles>
__global__ void __launch_bounds__(Tile::kThreads)
    matmul_half(const __grid_constant__ MatvecWeights weights, MatvecShape shape, Tiles tiles) {
  SPILLWAY_SHARED(uint32_t, stages, Tile::kStages * Tile::kWords);
  const float* scales = reinterpret_cast<const float*>(shape.scratch);
  const RowRange range = tiles.template range<Tile::kX>(shape.rows_of_x);
  if (Tiles::kMayBeEmpty && range.first >= range.end) return;
  typename Tiles::Weight weight = tiles.find(weights.of_block(static_cast<int>(blockIdx.y)), range.first);
  const int first_row = (static_cast<int>(blockIdx.y) - weight.first_block) * Tile::kRows;
  const int warp_row = warp_index() % Tile::kRowWarps * Tile::kTiles * 16;
  const int warp_x = warp_index() / Tile::kRowWarps * Tile::kXTiles * 8;
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  const int steps = (shape.x.cols + kStepCols - 1) / kStepCols;
  const auto fetch = [&](int step) {
    if (step < steps) {
      const Shared<uint32_t> stage = stages + step % Tile::kStages * Tile::kWords;
      fetch_weight<Half, Tile>(stage, weight, first_row, shape.x.cols, step * kStepCols);
      fetch_x<Tile>(stage, shape, range, step * kStepCols);
    }
    commit_copies();
  };
  const auto scale_of = [&](int x_row) { return Half::kScaled ? scales[min_of(x_row, range.end - 1)] : 1.0f; };

  float acc[Tile::kTiles][Tile::kXTiles][4] = {};
  float scale[Tile::kXTiles];
#pragma unroll
  for (int j = 0; j < Tile::kXTiles; j++) scale[j] = scale_of(range.first + warp_x + j * 8 + g);
#pragma unroll
  for (int step = 0; step < Tile::kStages - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    wait_for_copies<Tile::kStages - 2>();
    __syncthreads();  // the step has arrived for all, and all have done with the stage that is fetched into next
    fetch(step + Tile::kStages - 1);
    multiply_step<Half, Tile>(stages + step % Tile::kStages * Tile::kWords, warp_row, warp_x, scale, acc);
  }

#pragma unroll
  for (int j = 0; j < Tile::kXTiles; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int x_row = range.first + warp_x + j * 8 + 2 * t + e;
      const float inverse = 1.0f / scale_of(x_row);
#pragma unroll
      for (int i = 0; i < Tile::kTiles; i++) {
        for (int h = 0; h < 2; h++) {
          write_result(weight, first_row + warp_row + i * 16 + g + 8 * h, x_row, range.end,
                       acc[i][j][2 * h + e] * inverse);
        }
      }
    }
  }
}

// blocks_of_x: thread blocks along x.
template <typename Half, typename Tile, typename Tiles>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const MatvecShape& shape, const Tiles& tiles,
                        int64_t blocks_of_x) {
  const MatvecWeights weights = gather_parts(a, Half::Elements::kType, Tile::kRows);
  if (weights.count == 0) return cudaSuccess;
  if (Half::kScaled) {
    SPILLWAY_CHECK(a.scratch_bytes >= shape.rows_of_x * sizeof(float));
    const dim3 grid(static_cast<uint32_t>(ceil_div(shape.rows_of_x, kScaleWarps)));
    const cudaError_t error = launch(scale_rows, grid, dim3(kScaleWarps * kWarpLanes), 0, stream, shape.x,
                                     shape.rows_of_x, reinterpret_cast<float*>(shape.scratch));
    if (error != cudaSuccess) return error;
  }
  const dim3 grid(static_cast<uint32_t>(blocks_of_x), static_cast<uint32_t>(weights.grid_blocks));
  return launch(matmul_half<Half, Tile, Tiles>, grid, dim3(Tile::kThreads), 0, stream, weights, shape, tiles);
}

template <typename Half, typename Tile>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const MatvecShape& shape) {
  return launch_tile<Half, Tile>(stream, a, shape, TilesInTurn{}, ceil_div(shape.rows_of_x, Tile::kX));
}

template <typename Half>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const MatvecShape& shape, const Hardware& hardware) {
  switch (choose_tile(a, Half::Elements::kType, shape.rows_of_x, hardware)) {
    case Tile::x128_rows128:
      return launch_tile<Half, Shape<2, 4, 4, 4, 2>>(stream, a, shape);
    case Tile::x64_rows64:
      return launch_tile<Half, Shape<2, 2, 2, 4, 3>>(stream, a, shape);
    case Tile::x32_rows32:
      return launch_tile<Half, Shape<2, 1, 1, 4, 4>>(stream, a, shape);
    default:
      return launch_tile<Half, Shape<2, 1, 1, 2, 6>>(stream, a, shape);
  }
}

template <typename Half>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const MatvecShape& shape,
                        const TilesOfExperts& tiles) {
  using Large = Shape<2, 2, 2, 4, 3>;
  using Small = Shape<2, 1, 1, 4, 4>;
  return large_tiles(tiles) ? launch_tile<Half, Large>(stream, a, shape, tiles, tiles.tiles(Large::kX))
                            : launch_tile<Half, Small>(stream, a, shape, tiles, tiles.tiles(Small::kX));
}

}  // namespace

cudaError_t launch_expert_tiles_half(cudaStream_t stream, const CudaMatvec& arguments, DType type,
                                     const MatvecShape& shape, const TilesOfExperts& tiles) {
  return type == DType::f16 ? launch_type<HalfF16>(stream, arguments, shape, tiles)
                            : launch_type<HalfBf16>(stream, arguments, shape, tiles);
}

cudaError_t launch_matmul_half(cudaStream_t stream, const CudaMatvec& arguments, DType type, const MatvecShape& shape,
                               const Hardware& hardware) {
  return type == DType::f16 ? launch_type<HalfF16>(stream, arguments, shape, hardware)
                            : launch_type<HalfBf16>(stream, arguments, shape, hardware);
}

}  // namespace spillway::cuda
