// Products of many rows of x with quantised weights, on the tensor cores' 8-bit integers.
//
// A warp takes 16 rows of the weight and all kX rows of x of its thread block. The weight is staged as it is stored, in
// the aligned 16-byte pieces that cover two blocks of each row (a row may lie at any even address), and each lane picks
// the codes of its fragment out of there: of a nibble format one word holds both halves of a fragment. No other warp
// needs those rows, so nothing is unpacked twice. x was quantised before, and is shared by the warps. Copies run ahead
// by kStages - 1 steps, without passing through registers.
//
// A block of 32 is one mma: an exact sum of 32 products, then scaled and added to a float in each lane, the blocks in
// ascending order. On Ampere and Hopper the scaling, not the mma, is what takes the time: about 14 instructions to each
// mma, which bounds a multiprocessor to some 1000 multiply-adds a cycle, about the peak of 16-bit products on Ampere.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_x.cuh"

namespace spillway::cuda {
namespace {

constexpr int kRowsOfWarp = 16;

// ---- formats: where in a staged row a lane finds codes 4 t .. and 16 + 4 t .. of a block, as signed bytes

// 4 bytes at any even byte of the words.
__device__ __forceinline__ uint32_t word_at(Shared<uint32_t> words, int byte) {
  return __funnelshift_r(words[byte / 4], words[byte / 4 + 1], byte % 4 * 8);
}
__device__ __forceinline__ float f16_at(Shared<uint32_t> words, int byte) {
  return load_f16(static_cast<uint16_t>(words[byte / 4] >> byte % 4 * 8));
}

struct TileQ8_0 {
  static constexpr DType kType = DType::q8_0;
  static constexpr bool kHasOffset = false;
  __device__ __forceinline__ static void codes(Shared<uint32_t> row, int at, int t, uint32_t& low, uint32_t& high) {
    low = word_at(row, at + 2 + 4 * t);
    high = word_at(row, at + 18 + 4 * t);
  }
};

struct TileQ4_0 {
  static constexpr DType kType = DType::q4_0;
  static constexpr bool kHasOffset = false;
  // Four nibbles less 8: no byte carries into the next.
  __device__ __forceinline__ static uint32_t centred(uint32_t nibbles) {
    return ((nibbles & 0x0f0f0f0fu) + 0x78787878u) ^ 0x80808080u;
  }
  __device__ __forceinline__ static void codes(Shared<uint32_t> row, int at, int t, uint32_t& low, uint32_t& high) {
    const uint32_t nibbles = word_at(row, at + 2 + 4 * t);
    low = centred(nibbles);
    high = centred(nibbles >> 4);
  }
};

struct TileQ4_1 {
  static constexpr DType kType = DType::q4_1;
  static constexpr bool kHasOffset = true;  // an f16 behind the scale
  __device__ __forceinline__ static void codes(Shared<uint32_t> row, int at, int t, uint32_t& low, uint32_t& high) {
    const uint32_t nibbles = word_at(row, at + 4 + 4 * t);
    low = nibbles & 0x0f0f0f0fu;
    high = nibbles >> 4 & 0x0f0f0f0fu;
  }
};

// ---- one stage of shared memory: the weight's pieces, then what there is of x

template <typename Weight, int kX, int kWarps>
struct Stage {
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kStepBytes = kStepBlocks * info(Weight::kType).block_bytes;
  static constexpr int kPieces = (14 + kStepBytes + 15) / 16;  // a row begins up to 14 bytes into its first piece
  static constexpr int kRowWords = 4 * (kPieces | 1);          // an odd number of pieces spreads rows over the banks
  static constexpr int kCodes = kWarps * kRowsOfWarp * kRowWords;
  using X = StagedX<kX, kCodes>;
  static constexpr int kWords = X::kEnd;

  __device__ __forceinline__ static int weight_row(int row) { return row * kRowWords; }
};

// What one thread copies, always from the same rows: half of the pieces of a row of the warp's weight, and its part of
// x.
template <typename Place, int kX>
struct Feed {
  static_assert(kRowsOfWarp == kWarpLanes / 2 && Place::kPieces % 2 == 0);

  const std::byte* weight;  // the row
  const std::byte* end;     // of the tensor
  FeedOfX<typename Place::X, kX, Place::kThreads> x;

  __device__ __forceinline__ Feed(const MatvecWeight& matrix, int first_row, const TiledX& tiled, const RowRange& range)
      : weight(matrix.row(first_row + lane_index() / 2)), end(matrix.end), x(tiled, range) {}

  // A piece of the weight may begin before the tensor and is read whole: an aligned piece never crosses the start of an
  // allocation. What would lie behind its end is not read. Rows past the last one are the last again.
  __device__ __forceinline__ void fetch(Shared<uint32_t> stage, int step) const {
    const std::byte* begin = weight + static_cast<int64_t>(step) * Place::kStepBytes;
    const std::byte* first = begin - reinterpret_cast<uintptr_t>(begin) % 16;
    const int weight_word = Place::weight_row(warp_index() * kRowsOfWarp + lane_index() / 2);
#pragma unroll
    for (int s = 0; s < Place::kPieces / 2; s++) {
      const int piece = lane_index() % 2 + 2 * s;
      const int bytes = bytes_before(first + piece * 16, end);
      copy_async<16>(stage, weight_word + piece * 4, bytes > 0 ? first + piece * 16 : first, bytes);
    }
    x.fetch(stage, step);
  }
};

// Adds block b of a stage to acc[tile of 8 rows of x][fragment of 16 x 8]. at[h]: where that block begins in the staged
// row g + 8 h.
template <typename Weight, int kX, int kWarps>
__device__ __forceinline__ void multiply_block(Shared<uint32_t> stage, int b, const int (&at)[2],
                                               float (&acc)[kX / 8][4]) {
  using Place = Stage<Weight, kX, kWarps>;
  const int lane = lane_index();
  const int g = lane / 4;
  const int t = lane % 4;
  uint32_t a[4];
  float scale[2];
  float offset[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const Shared<uint32_t> row = stage + Place::weight_row(warp_index() * kRowsOfWarp + g + 8 * h);
    Weight::codes(row, at[h], t, a[h], a[h + 2]);
    scale[h] = f16_at(row, at[h]);
    offset[h] = Weight::kHasOffset ? f16_at(row, at[h] + 2) : 0.0f;
  }
  // Lane l names row l % 8 of: tile j first half, tile j second half, tile j + 1 first half ...
  const int x_word = Place::X::piece(lane / 16 * 8 + lane % 8, 2 * b + lane / 8 % 2);
#pragma unroll
  for (int j = 0; j < kX / 8; j += 2) {
    uint32_t x[4];
    load_matrices(x, stage, x_word + j * 8 * kXWords);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      int dot[4] = {kExactZero, kExactZero, kExactZero, kExactZero};
      mma_s8(dot, a, x[2 * n], x[2 * n + 1]);
      const uint4 words = load_words(stage, Place::X::kScales + (b * kX + (j + n) * 8 + 2 * t) * kScaleWords);
      const float x_scale[2] = {float_from_bits(words.x), float_from_bits(words.z)};
      const float x_sum[2] = {float_from_bits(words.y), float_from_bits(words.w)};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float& sum = acc[j + n][i];
        if (Weight::kHasOffset) sum = fmaf(offset[i / 2], x_sum[i % 2], sum);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        acc[j + n][i] = fmaf(scale[i / 2] * x_scale[i % 2], exact_float(dot[i]), acc[j + n][i]);
      }
    }
  }
}

// The rows of x that blockIdx.x stands for with the rows of the weights that blockIdx.y stands for: thread blocks that
// run side by side share a piece of the weight.
template <typename Weight, int kX, int kWarps, int kStages, typename Tiles>
__global__ void __launch_bounds__(kWarps* kWarpLanes, kX == 128 ? 2 : 1)
    matmul_quantized(const __grid_constant__ MatvecWeights weights, TiledX x, Tiles tiles) {
  using Place = Stage<Weight, kX, kWarps>;
  SPILLWAY_SHARED(uint32_t, stages, kStages * Place::kWords);
  const RowRange range = tiles.template range<kX>(x.rows);
  if (Tiles::kMayBeEmpty && range.first >= range.end) return;
  typename Tiles::Weight weight = tiles.find(weights.of_block(static_cast<int>(blockIdx.y)), range.first);
  const int first_row =
      (static_cast<int>(blockIdx.y) - weight.first_block) * kWarps * kRowsOfWarp + warp_index() * kRowsOfWarp;
  const int g = lane_index() / 4;
  const int t = lane_index() % 4;
  const int steps = (x.blocks + kStepBlocks - 1) / kStepBlocks;
  const Feed<Place, kX> feed(weight, first_row, x, range);
  const auto fetch = [&](int step) {
    if (step < steps) feed.fetch(stages + step % kStages * Place::kWords, step);
    commit_copies();
  };
  // Where rows g and g + 8 begin in their first pieces, 4 bits each.
  const int row_begins = static_cast<int>(reinterpret_cast<uintptr_t>(weight.row(first_row + g)) % 16 +
                                          reinterpret_cast<uintptr_t>(weight.row(first_row + g + 8)) % 16 * 16);

  float acc[kX / 8][4] = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the step has arrived for all, and all have done with the stage that is fetched into next
    fetch(step + kStages - 1);
    const Shared<uint32_t> stage = stages + step % kStages * Place::kWords;
#pragma unroll 1
    for (int b = 0; b < kStepBlocks; b++) {
      if (step * kStepBlocks + b >= x.blocks) break;
      constexpr int kBytes = Place::kStepBytes / kStepBlocks;
      const int at[2] = {(row_begins + step * Place::kStepBytes) % 16 + b * kBytes,
                         (row_begins / 16 + step * Place::kStepBytes) % 16 + b * kBytes};
      multiply_block<Weight, kX, kWarps>(stage, b, at, acc);
    }
  }

#pragma unroll
  for (int j = 0; j < kX / 8; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      write_result(weight, first_row + g + i / 2 * 8, range.first + j * 8 + 2 * t + i % 2, range.end, acc[j][i]);
    }
  }
}

template <typename Weight, int kX, int kWarps, int kStages>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const TiledX& x) {
  const MatvecWeights weights = gather_parts(a, Weight::kType, kWarps * kRowsOfWarp);
  if (weights.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(ceil_div(x.rows, kX)), static_cast<uint32_t>(weights.grid_blocks));
  return launch(matmul_quantized<Weight, kX, kWarps, kStages, TilesInTurn>, grid, dim3(kWarps * kWarpLanes), 0, stream,
                weights, x, TilesInTurn{});
}

template <typename Weight, int kX, int kWarps, int kStages>
cudaError_t launch_tile(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const TilesOfExperts& tiles) {
  const MatvecWeights weights = gather_parts(a, Weight::kType, kWarps * kRowsOfWarp);
  if (weights.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(tiles.tiles(kX)), static_cast<uint32_t>(weights.grid_blocks));
  return launch(matmul_quantized<Weight, kX, kWarps, kStages, TilesOfExperts>, grid, dim3(kWarps * kWarpLanes), 0,
                stream, weights, x, tiles);
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const Hardware& hardware) {
  switch (choose_tile(a, Weight::kType, x.rows, hardware)) {
    case Tile::x128_rows128:
      return launch_tile<Weight, 128, 8, 2>(stream, a, x);
    case Tile::x64_rows64:
      return launch_tile<Weight, 64, 4, 3>(stream, a, x);
    case Tile::x32_rows32:
      return launch_tile<Weight, 32, 2, 6>(stream, a, x);
    default:
      return launch_tile<Weight, 16, 2, 6>(stream, a, x);
  }
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const CudaMatvec& a, const TiledX& x, const TilesOfExperts& tiles) {
  return large_tiles(tiles) ? launch_tile<Weight, 64, 4, 3>(stream, a, x, tiles)
                            : launch_tile<Weight, 32, 2, 6>(stream, a, x, tiles);
}

// how: Hardware, or TilesOfExperts.
template <typename How>
cudaError_t launch_any(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x, const How& how) {
  switch (type) {
    case DType::q8_0:
      return launch_type<TileQ8_0>(stream, arguments, x, how);
    case DType::q4_0:
      return launch_type<TileQ4_0>(stream, arguments, x, how);
    case DType::q4_1:
      return launch_type<TileQ4_1>(stream, arguments, x, how);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace

cudaError_t launch_matmul_quantized(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                    const Hardware& hardware) {
  return launch_any(stream, arguments, type, x, hardware);
}
cudaError_t launch_expert_tiles_quantized(cudaStream_t stream, const CudaMatvec& arguments, DType type, const TiledX& x,
                                          const TilesOfExperts& tiles) {
  return launch_any(stream, arguments, type, x, tiles);
}

}  // namespace spillway::cuda
