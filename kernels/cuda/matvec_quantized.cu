// Matrix-vector products with quantised weights, computed on as they are stored (kernels/blocks.h), x quantised to
// int8.
//
// A warp takes kRows rows of the weight, or one of `splits` shares of them, chunk by chunk: 32 times 32 elements, one
// to a lane, or two. Blocks of 18 to 210 bytes at any even address allow no wide loads by themselves; so a warp copies
// the aligned 16-byte pieces that cover its chunks into shared memory, and each lane picks its block out of there. The
// copies are asynchronous and run kStages - 1 chunks ahead, past the registers and the first-level cache.
//
// To read memory at its speed, a multiprocessor must have speed x latency bytes under way (Little's law): with a
// latency of 1 us under load, 25 KB on an H100 (3.35 TB/s, 132 multiprocessors), 36 KB on an H200, 14 KB on an A100, 8
// KB on an RTX 4090. A chunk is about 2.3 KB, and a warp has one or two under way. Registers and shared memory hold 6
// or 7 thread blocks (24 or 28 warps: 55 KB and more) of this kernel on Hopper, 5 on an A100, 3 on consumer GPUs. A row
// of 4096 columns is four chunks, one to each warp of a thread block; there nothing is fetched ahead, and a warp's
// share of its life with bytes under way is what makes the difference between those 55 KB and what is needed. A matrix
// of 4096 such rows of nibbles is about one wave of an H100, so that its end costs little; larger ones are several.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/expert_rows.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matvec.cuh"
#include "kernels/cuda/matvec_blocks.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {
namespace {

constexpr int kStages = 3;

// 32 codes of a weight block as 8 (Q8_0) or 4 (nibbles) words, and its scale and offset.
struct WeightQ8_0 {
  static constexpr DType kType = DType::q8_0;
  static constexpr int kBytes = sizeof(BlockQ8_0);
  static constexpr int kRows = matvec_step(kType).rows;
  uint32_t codes[8];
  float scale;

  // `at` is the block's first byte in the staged words, an even number.
  __device__ __forceinline__ void unpack(Shared<uint32_t> words, int at, int /*unit*/) {
    const int first = at / 4;
    const bool odd = at % 4 != 0;  // the scale is the upper half of the first word
    uint32_t word = words[first];
    scale = load_f16(static_cast<uint16_t>(odd ? word >> 16 : word));
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t next = words[first + i + 1];
      codes[i] = odd ? next : __funnelshift_r(word, next, 16);
      word = next;
    }
  }

  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int /*x_sum*/, float acc) const {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) dot = __dp4a(static_cast<int>(codes[i]), static_cast<int>(x[i]), dot);
    return fmaf(scale * x_scale, static_cast<float>(dot), acc);
  }
};

__device__ __forceinline__ int nibble_dot(const uint32_t* nibbles, const uint32_t* x) {
  int dot = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    dot = __dp4a(static_cast<int>(nibbles[i] & 0x0f0f0f0fu), static_cast<int>(x[i]), dot);
    dot = __dp4a(static_cast<int>((nibbles[i] >> 4) & 0x0f0f0f0fu), static_cast<int>(x[i + 4]), dot);
  }
  return dot;
}

struct WeightQ4_0 {
  static constexpr DType kType = DType::q4_0;
  static constexpr int kBytes = sizeof(BlockQ4_0);
  static constexpr int kRows = matvec_step(kType).rows;
  uint32_t codes[4];
  float scale;

  __device__ __forceinline__ void unpack(Shared<uint32_t> words, int at, int /*unit*/) {
    const int first = at / 4;
    const bool odd = at % 4 != 0;
    uint32_t word = words[first];
    scale = load_f16(static_cast<uint16_t>(odd ? word >> 16 : word));
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t next = words[first + i + 1];
      codes[i] = odd ? next : __funnelshift_r(word, next, 16);
      word = next;
    }
  }

  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int x_sum, float acc) const {
    return fmaf(scale * x_scale, static_cast<float>(nibble_dot(codes, x) - 8 * x_sum), acc);
  }
};

struct WeightQ4_1 {
  static constexpr DType kType = DType::q4_1;
  static constexpr int kBytes = sizeof(BlockQ4_1);
  static constexpr int kRows = matvec_step(kType).rows;
  uint32_t codes[4];
  float scale;
  float offset;

  __device__ __forceinline__ void unpack(Shared<uint32_t> words, int at, int /*unit*/) {
    const int first = at / 4;
    const bool odd = at % 4 != 0;
    uint32_t word = words[first];
    uint32_t next = words[first + 1];
    const uint32_t head = odd ? __funnelshift_r(word, next, 16) : word;
    scale = load_f16(static_cast<uint16_t>(head & 0xffff));
    offset = load_f16(static_cast<uint16_t>(head >> 16));
#pragma unroll
    for (int i = 0; i < 4; i++) {
      word = next;
      if (odd || i < 3) next = words[first + i + 2];
      codes[i] = odd ? __funnelshift_r(word, next, 16) : word;
    }
  }

  __device__ __forceinline__ float fold(const uint32_t* x, float x_scale, int x_sum, float acc) const {
    const float with_scale = fmaf(scale * x_scale, static_cast<float>(nibble_dot(codes, x)), acc);
    return fmaf(offset * x_scale, static_cast<float>(x_sum), with_scale);
  }
};

// The weight rows of one warp, and which pieces of them this lane copies, chunk by chunk.
template <typename Weight>
struct Chunks {
  static constexpr int kBlockUnits = info(Weight::kType).block_elements / kBlockElements;  // 32s of a block
  static constexpr int kUnits = matvec_step(Weight::kType).elements / kBlockElements;      // and of a chunk
  static constexpr int kChunkBytes = kUnits / kBlockUnits * Weight::kBytes;
  static constexpr int kPieces = kChunkBytes / 16 + 1;  // of one row, if it is not aligned
  static constexpr int kSlots = (Weight::kRows * kPieces + kWarpLanes - 1) / kWarpLanes;
  static constexpr int kWords = 4 * Weight::kRows * kPieces;  // staged by one warp
  static_assert(kChunkBytes % 16 == 0);                       // so that the misalignment of a row stays

  const std::byte* end;            // of the tensor
  const std::byte* start[kSlots];  // of this lane's piece in chunk 0; the piece may begin up to 14 bytes before its row
  int skew[kSlots];                // from the start of the row to there; past every chunk where the lane has no piece
  int row_bytes;

  __device__ __forceinline__ void aim(const MatvecWeight& weight, int first_row, int lane) {
    end = weight.end;
    row_bytes = weight.row_bytes;
#pragma unroll
    for (int s = 0; s < kSlots; s++) {
      const int piece = s * kWarpLanes + lane;
      const int r = piece / kPieces;
      const std::byte* row = weight.row(first_row + r);
      const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16);
      skew[s] = r < Weight::kRows ? 16 * (piece % kPieces) - misaligned : row_bytes;
      start[s] = row + skew[s];
    }
  }

  // A piece that begins before the tensor is read whole: an aligned piece never crosses the start of an allocation.
  // What would lie behind its end is not read.
  __device__ __forceinline__ void fetch(int chunk, Shared<uint32_t> words, int lane) const {
#pragma unroll
    for (int s = 0; s < kSlots; s++) {
      if (skew[s] >= kChunkBytes || skew[s] + chunk * kChunkBytes >= row_bytes) continue;
      const std::byte* piece = start[s] + static_cast<int64_t>(chunk) * kChunkBytes;
      copy_async<16>(words, 4 * (s * kWarpLanes + lane), piece, bytes_before(piece, end));
    }
  }
};

// The rows of x that blockIdx.y stands for with the rows of the weights that blockIdx.x does.
template <typename Weight, int kX, typename Rows>
__global__ void __launch_bounds__(kMatvecThreads)
    matvec_quantized(const __grid_constant__ MatvecWeights weights, QuantizedX x, int splits, Rows rows) {
  constexpr int kRows = Weight::kRows;
  using Pieces = Chunks<Weight>;
  SPILLWAY_SHARED(uint32_t, staged, kMatvecWarps * kStages * Pieces::kWords);
  SPILLWAY_SHARED(float, partial, kMatvecWarps* kRows* kX);
  const int lane = lane_index();
  const int warp = warp_index();
  const MatvecWeight& part = weights.of_block(static_cast<int>(blockIdx.x));
  MatvecWeight weight = part;
  const RowRange range = rows.template of_block<kX>(weight);
  if (range.first >= range.end) return;
  const int first_row = (static_cast<int>(blockIdx.x) - weight.first_block) * (kMatvecWarps / splits) * kRows;
  const int warp_row = first_row + warp / splits * kRows;
  const int first_x = range.first;
  const int chunks = (x.blocks + Pieces::kUnits - 1) / Pieces::kUnits;
  const auto stage = [&](int step) { return staged + (warp * kStages + step % kStages) * Pieces::kWords; };
  int misaligned[kRows];
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    misaligned[r] = static_cast<int>(reinterpret_cast<uintptr_t>(weight.row(warp_row + r)) % 16);
  }

  float acc[kRows * kX] = {};
  Pieces pieces;
  pieces.aim(weight, warp_row, lane);
  const auto fetch = [&](int step) {
    const int chunk = warp % splits + step * splits;
    if (chunk < chunks) pieces.fetch(chunk, stage(step), lane);
    commit_copies();
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; step++) fetch(step);
  for (int step = 0; warp % splits + step * splits < chunks; step++) {
    wait_for_copies<kStages - 2>();
    __syncwarp();  // the chunk has arrived for all lanes, and all have done with the one that is fetched over
    fetch(step + kStages - 1);
    const Shared<uint32_t> words = stage(step);
    const int chunk = warp % splits + step * splits;
#pragma unroll
    for (int unit = lane; unit < Pieces::kUnits; unit += kWarpLanes) {
      const int block = chunk * Pieces::kUnits + unit;  // of x
      if (block >= x.blocks) break;
      const int at = unit / Pieces::kBlockUnits * Weight::kBytes;
      Weight w[kRows];
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        w[r].unpack(words, 16 * r * Pieces::kPieces + misaligned[r] + at, unit % Pieces::kBlockUnits);
      }
#pragma unroll
      for (int j = 0; j < kX; j++) {
        const int64_t x_block = static_cast<int64_t>(min_of(first_x + j, range.end - 1)) * x.blocks + block;
        const uint4 low = load_cached(x.codes + x_block * kBlockElements);
        const uint4 high = load_cached(x.codes + x_block * kBlockElements + 16);
        const uint32_t codes[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const XScale scale = x.scales[x_block];
#pragma unroll
        for (int r = 0; r < kRows; r++) acc[r * kX + j] = w[r].fold(codes, scale.scale, scale.sum, acc[r * kX + j]);
      }
    }
  }

  lane_sums<kRows * kX, 16>(acc, lane);
  if (writes_sum<kRows * kX, 16>(lane)) partial[warp * kRows * kX + summed_index<kRows * kX, 16>(lane)] = acc[0];
  __syncthreads();
  write_results<kRows, kX>(part, partial, splits, first_row, first_x, range.end);
}

template <typename Weight, int kX>
cudaError_t launch_tiles(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  const dim3 grid(static_cast<uint32_t>(weights.grid_blocks), static_cast<uint32_t>(ceil_div(shape.rows_of_x, kX)));
  return launch(matvec_quantized<Weight, kX, EveryRow>, grid, dim3(kMatvecThreads), 0, stream, weights,
                QuantizedX::in(shape), shape.splits, EveryRow{shape.rows_of_x});
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  if (shape.rows_of_x == 1) return launch_tiles<Weight, 1>(stream, weights, shape);
  if (shape.rows_of_x == 2) return launch_tiles<Weight, 2>(stream, weights, shape);
  if (shape.rows_of_x <= 4) return launch_tiles<Weight, 4>(stream, weights, shape);
  return launch_tiles<Weight, kMatvecRowsOfX>(stream, weights, shape);
}

template <typename Weight, int kX>
cudaError_t launch_places(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape,
                          const RowsOfExperts& rows, int places) {
  const dim3 grid(static_cast<uint32_t>(weights.grid_blocks), static_cast<uint32_t>(places));
  return launch(matvec_quantized<Weight, kX, RowsOfExperts>, grid, dim3(kMatvecThreads), 0, stream, weights,
                QuantizedX::in(shape), shape.splits, rows);
}

// Calls launch(Weight{}) with the weight's type.
template <typename Launch>
cudaError_t with_type(DType type, const Launch& launch) {
  switch (type) {
    case DType::q8_0:
      return launch(WeightQ8_0{});
    case DType::q4_0:
      return launch(WeightQ4_0{});
    case DType::q4_1:
      return launch(WeightQ4_1{});
    case DType::q5_0:
      return launch(WeightQ5_0{});
    case DType::q5_1:
      return launch(WeightQ5_1{});
    case DType::iq4_nl:
      return launch(WeightIQ4_NL{});
    case DType::q2_k:
      return launch(WeightQ2_K{});
    case DType::q3_k:
      return launch(WeightQ3_K{});
    case DType::q4_k:
      return launch(WeightQ4_K{});
    case DType::q5_k:
      return launch(WeightQ5_K{});
    case DType::q6_k:
      return launch(WeightQ6_K{});
    case DType::iq4_xs:
      return launch(WeightIQ4_XS{});
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace

cudaError_t launch_matvec_quantized(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                    const MatvecShape& shape) {
  return with_type(type, [&]<typename Weight>(Weight) { return launch_type<Weight>(stream, weights, shape); });
}

cudaError_t launch_experts_quantized(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                     const MatvecShape& shape, const RowsOfExperts& rows, int places) {
  return with_type(type, [&]<typename Weight>(Weight) {
    // One row of x goes to experts that all differ.
    return shape.one_row ? launch_places<Weight, 1>(stream, weights, shape, rows, places)
                         : launch_places<Weight, kMatvecRowsOfX>(stream, weights, shape, rows, places);
  });
}

}  // namespace spillway::cuda
