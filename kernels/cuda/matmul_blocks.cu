// Products of many rows of x with weights in the block formats whose codes lie scattered (five bits, tables, 256
// elements), on the tensor cores' 8-bit integers.
//
// As in matmul_quantized.cu a warp takes 16 rows of the weight and all kX rows of x of its thread block. Of the two
// blocks of 32 of a step, a lane unpacks one of one row, as the matrix-vector kernel does (matvec_blocks.cuh), straight
// from memory into signed bytes in shared memory, whence the products take their fragments. While a step is multiplied
// the words of the next one are on their way into registers.
//
// A block of 32 is one exact sum of 32 products, or two of 16 where its halves have scales of their own; these are
// scaled and added to a float in each lane, the blocks in ascending order.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_x.cuh"
#include "kernels/cuda/matvec_blocks.cuh"

namespace spillway::cuda {
namespace {

constexpr int kRowsOfWarp = 16;
constexpr int kStages = 2;

// The aligned words that hold a row's bytes; those of a last one that lie behind the tensor are not read.
struct WordsInMemory {
  const std::byte* begin;  // aligned to 4
  const std::byte* end;    // of the tensor

  __device__ __forceinline__ uint32_t operator[](int word) const {
    const std::byte* at = begin + 4 * word;
    if (end - at >= 4) return *reinterpret_cast<const uint32_t*>(at);
    return *reinterpret_cast<const uint16_t*>(at);  // rows are of even length, at even addresses
  }
};

// An unpacked row of the weight in a step: for each block 8 words of codes, then its scales and offsets by halves. The
// rows of a fragment lie in different banks.
constexpr int kBlockWords = 12;
constexpr int kRowWords = kStepBlocks * kBlockWords + 4;

template <typename Weight>
__device__ __forceinline__ void store_block(const Weight& w, Shared<uint32_t> to) {
  store_words(to, 0, {w.codes[0], w.codes[1], w.codes[2], w.codes[3]});
  store_words(to, 4, {w.codes[4], w.codes[5], w.codes[6], w.codes[7]});
  store_words(
      to, 8,
      {float_bits(w.scale_of(0)), float_bits(w.scale_of(1)), float_bits(w.offset_of(0)), float_bits(w.offset_of(1))});
}

// sums of an accumulator += scales . dots, element by element; scale[h]: of row g + 8 h.
__device__ __forceinline__ void add_scaled(const float (&scale)[2], const float (&x_scale)[2], const int (&dot)[4],
                                           float (&acc)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) acc[i] = fmaf(scale[i / 2] * x_scale[i % 2], exact_float(dot[i]), acc[i]);
}

// Adds block b of a step to acc[tile of 8 rows of x][fragment of 16 x 8].
template <typename Weight, typename Place, int kX>
__device__ __forceinline__ void multiply_block(Shared<uint32_t> rows, Shared<uint32_t> stage, int b,
                                               float (&acc)[kX / 8][4]) {
  constexpr uint32_t kOnes = 0x01010101u;
  const int lane = lane_index();
  const int g = lane / 4;
  const int t = lane % 4;
  uint32_t a[4];
  float scale[2][2];  // of half, row
  float offset[2][2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int at = (g + 8 * h) * kRowWords + b * kBlockWords;
    a[h] = rows[at + t];
    a[h + 2] = rows[at + 4 + t];
    const uint4 words = load_words(rows, at + 8);
    scale[0][h] = float_from_bits(words.x);
    scale[1][h] = float_from_bits(words.y);
    offset[0][h] = float_from_bits(words.z);
    offset[1][h] = float_from_bits(words.w);
  }
  // Lane l names row l % 8 of: tile j first half, tile j second half, tile j + 1 first half ...
  const int x_word = Place::piece(lane / 16 * 8 + lane % 8, 2 * b + lane / 8 % 2);
#pragma unroll
  for (int j = 0; j < kX / 8; j += 2) {
    uint32_t x[4];
    load_matrices(x, stage, x_word + j * 8 * kXWords);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const uint4 words = load_words(stage, Place::kScales + (b * kX + (j + n) * 8 + 2 * t) * kScaleWords);
      const float x_scale[2] = {float_from_bits(words.x), float_from_bits(words.z)};
      if constexpr (Weight::kHalves) {
        const uint32_t low[4] = {a[0], a[1], 0, 0};
        const uint32_t high[4] = {0, 0, a[2], a[3]};
        // Sum by sum, for registers are few.
        const auto half = [&](const float(&of_rows)[2], const uint32_t(&rows_of_codes)[4], uint32_t x0, uint32_t x1) {
          int dot[4] = {kExactZero, kExactZero, kExactZero, kExactZero};
          mma_s8(dot, rows_of_codes, x0, x1);
          add_scaled(of_rows, x_scale, dot, acc[j + n]);
        };
        if constexpr (Weight::kHasOffset) {
          const uint32_t ones_low[4] = {kOnes, kOnes, 0, 0};
          const uint32_t ones_high[4] = {0, 0, kOnes, kOnes};
          half(offset[0], ones_low, x[2 * n], 0);
          half(offset[1], ones_high, 0, x[2 * n + 1]);
        }
        half(scale[0], low, x[2 * n], 0);
        half(scale[1], high, 0, x[2 * n + 1]);
      } else {
        int dot[4] = {kExactZero, kExactZero, kExactZero, kExactZero};
        mma_s8(dot, a, x[2 * n], x[2 * n + 1]);
        const float x_sum[2] = {float_from_bits(words.y), float_from_bits(words.w)};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (Weight::kHasOffset) acc[j + n][i] = fmaf(offset[0][i / 2], x_sum[i % 2], acc[j + n][i]);
        }
        add_scaled(scale[0], x_scale, dot, acc[j + n]);
      }
    }
  }
}

// The rows of x that blockIdx.x stands for with the rows of the weights that blockIdx.y stands for.
template <typename Weight, int kX, int kWarps, typename Tiles>
__global__ void __launch_bounds__(kWarps* kWarpLanes, kX == 128 ? 2 : 1)
    matmul_blocks(const __grid_constant__ MatvecWeights weights, TiledX x, Tiles tiles) {
  using Place = StagedX<kX, 0>;
  constexpr int kUnits = info(Weight::kType).block_elements / kBlockElements;  // 32s of a block of the format
  SPILLWAY_SHARED(uint32_t, stages, kStages * Place::kEnd);
  SPILLWAY_SHARED(uint32_t, unpacked, kWarps * kRowsOfWarp * kRowWords);
  const RowRange range = tiles.template range<kX>(x.rows);
  if (Tiles::kMayBeEmpty && range.first >= range.end) return;
  typename Tiles::Weight weight = tiles.find(weights.of_block(static_cast<int>(blockIdx.y)), range.first);
  const int first_row =
      (static_cast<int>(blockIdx.y) - weight.first_block) * kWarps * kRowsOfWarp + warp_index() * kRowsOfWarp;
  const int steps = (x.blocks + kStepBlocks - 1) / kStepBlocks;
  const Shared<uint32_t> rows = unpacked + warp_index() * kRowsOfWarp * kRowWords;
  const FeedOfX<Place, kX, kWarps * kWarpLanes> feed(x, range);
  const auto fetch = [&](int step) {
    if (step < steps) feed.fetch(stages + step % kStages * Place::kEnd, step);
    commit_copies();
  };
  const std::byte* row = weight.row(first_row + lane_index() / kStepBlocks);
  Weight block;  // of this lane, in the step to come
  const auto unpack = [&](int step) {
    const int unit = min_of(step * kStepBlocks + lane_index() % kStepBlocks, x.blocks - 1);
    const std::byte* from = row + static_cast<int64_t>(unit / kUnits) * Weight::kBytes;
    const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(from) % 4);
    block.unpack(WordsInMemory{from - misaligned, weight.end}, misaligned, unit % kUnits);
  };

  float acc[kX / 8][4] = {};
  fetch(0);
  if (steps > 0) unpack(0);
  for (int step = 0; step < steps; step++) {
    wait_for_copies<0>();
    __syncthreads();  // the step has arrived for all, and all have done with the one before
    fetch(step + 1);
    store_block(block, rows + lane_index() / kStepBlocks * kRowWords + lane_index() % kStepBlocks * kBlockWords);
    __syncwarp();
    if (step + 1 < steps) unpack(step + 1);
    const Shared<uint32_t> stage = stages + step % kStages * Place::kEnd;
#pragma unroll 1
    for (int b = 0; b < kStepBlocks; b++) {
      if (step * kStepBlocks + b >= x.blocks) break;
      multiply_block<Weight, Place, kX>(rows, stage, b, acc);
    }
  }

#pragma unroll
  for (int j = 0; j < kX / 8; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      write_result(weight, first_row + lane_index() / 4 + i / 2 * 8,
                   range.first + j * 8 + 2 * (lane_index() % 4) + i % 2, range.end, acc[j][i]);
    }
  }
}

template <typename Weight, int kX, int kWarps>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const TiledX& x) {
  const MatvecWeights weights = gather_parts(a, Weight::kType, kWarps * kRowsOfWarp);
  if (weights.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(ceil_div(x.rows, kX)), static_cast<uint32_t>(weights.grid_blocks));
  return launch(matmul_blocks<Weight, kX, kWarps, TilesInTurn>, grid, dim3(kWarps * kWarpLanes), 0, stream, weights, x,
                TilesInTurn{});
}

template <typename Weight, int kX, int kWarps>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const TilesOfExperts& tiles) {
  const MatvecWeights weights = gather_parts(a, Weight::kType, kWarps * kRowsOfWarp);
  if (weights.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(tiles.tiles(kX)), static_cast<uint32_t>(weights.grid_blocks));
  return launch(matmul_blocks<Weight, kX, kWarps, TilesOfExperts>, grid, dim3(kWarps * kWarpLanes), 0, stream, weights,
                x, tiles);
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const Hardware& hardware) {
  switch (choose_tile(a, Weight::kType, x.rows, hardware)) {
    case Tile::x128_rows128:
      return launch_tile<Weight, 128, 8>(stream, a, x);
    case Tile::x64_rows64:
      return launch_tile<Weight, 64, 4>(stream, a, x);
    case Tile::x32_rows32:
      return launch_tile<Weight, 32, 2>(stream, a, x);
    default:
      return launch_tile<Weight, 16, 2>(stream, a, x);
  }
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const TilesOfExperts& tiles) {
  return large_tiles(tiles) ? launch_tile<Weight, 64, 4>(stream, a, x, tiles)
                            : launch_tile<Weight, 32, 2>(stream, a, x, tiles);
}

// how: Hardware, or TilesOfExperts.
template <typename How>
cudaError_t launch_any(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x, const How& how) {
  switch (type) {
    case DType::q5_0:
      return launch_type<WeightQ5_0>(stream, arguments, x, how);
    case DType::q5_1:
      return launch_type<WeightQ5_1>(stream, arguments, x, how);
    case DType::iq4_nl:
      return launch_type<WeightIQ4_NL>(stream, arguments, x, how);
    case DType::q2_k:
      return launch_type<WeightQ2_K>(stream, arguments, x, how);
    case DType::q3_k:
      return launch_type<WeightQ3_K>(stream, arguments, x, how);
    case DType::q4_k:
      return launch_type<WeightQ4_K>(stream, arguments, x, how);
    case DType::q5_k:
      return launch_type<WeightQ5_K>(stream, arguments, x, how);
    case DType::q6_k:
      return launch_type<WeightQ6_K>(stream, arguments, x, how);
    case DType::iq4_xs:
      return launch_type<WeightIQ4_XS>(stream, arguments, x, how);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace

cudaError_t launch_matmul_blocks(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                 const Hardware& hardware) {
  return launch_any(stream, arguments, type, x, hardware);
}
cudaError_t launch_expert_tiles_blocks(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                       const TilesOfExperts& tiles) {
  return launch_any(stream, arguments, type, x, tiles);
}

}  // namespace spillway::cuda
