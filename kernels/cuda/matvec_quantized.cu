// Matrix-vector products with quantised weights, computed on as they are stored (kernels/blocks.h), x quantised to
// int8.
//
// A warp takes kRows rows of the weight, or one of `splits` shares of them, chunk by chunk: 32 times 32 elements, one
// to a lane, or two. Blocks of 18, 20, 210 bytes at any even address allow no wide loads by themselves; so a warp
// copies the aligned 16-byte pieces that cover its chunks into shared memory, the loads of the next ones in flight
// while these are multiplied, and each lane picks its block out of there. Pieces that reach past the tensor are put
// together from what lies inside it.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matvec.cuh"
#include "kernels/cuda/matvec_blocks.cuh"

namespace spillway::cuda {
namespace {

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

// A row of x, quantised: 32 codes to a block, and the block's scale and sum of codes.
struct XScale {
  float scale;
  int sum;
};

struct QuantizedX {
  std::byte* codes;  // [m x k]
  XScale* scales;    // [m x k / 32]

  static QuantizedX in(const MatvecShape& shape) {
    return {shape.scratch,
            reinterpret_cast<XScale*>(shape.scratch + static_cast<int64_t>(shape.rows_of_x) * shape.x.cols)};
  }
};

constexpr int kQuantizeThreads = 256;

// A thread to 4 elements, 8 threads to a block of 32. The scale is the largest magnitude / 127; one that is not finite
// stays so, and makes the result so.
template <bool kAligned>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_rows(MatvecRows x, QuantizedX out) {
  const int first = 4 * static_cast<int>(blockIdx.x * kQuantizeThreads + threadIdx.x);
  const int row = static_cast<int>(blockIdx.y);
  const float* source = reinterpret_cast<const float*>(x.data + row * x.stride);
  float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
  if (first < x.cols) {  // a multiple of 32 columns: all 4 or none
    if constexpr (kAligned) {
      v = load_floats(source + first);
    } else {
      v = {source[first], source[first + 1], source[first + 2], source[first + 3]};
    }
  }
  // Magnitudes compare as integers, NaN above all.
  uint32_t largest = 0;
  for (const float e : {v.x, v.y, v.z, v.w}) {
    const uint32_t magnitude = float_bits(e) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
#pragma unroll
  for (int offset = 4; offset >= 1; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, largest, offset);
    largest = other > largest ? other : largest;
  }
  const float scale = float_from_bits(largest) / 127.0f;
  const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  uint32_t codes = 0;
  int sum = 0;
  int shift = 0;
  for (const float e : {v.x, v.y, v.z, v.w}) {
    const int code = clamped_code(rintf(e * inverse), -127.0f, 127.0f);
    codes |= (static_cast<uint32_t>(code) & 0xffu) << shift;
    sum += code;
    shift += 8;
  }
#pragma unroll
  for (int offset = 4; offset >= 1; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (first >= x.cols) return;
  reinterpret_cast<uint32_t*>(out.codes)[(static_cast<int64_t>(row) * x.cols + first) / 4] = codes;
  if (first % kBlockElements == 0)
    out.scales[(static_cast<int64_t>(row) * x.cols + first) / kBlockElements] = {scale, sum};
}

// The 16 bytes at `address`, of which only those in [begin, end) may be read; all three are even.
__device__ __forceinline__ uint4 load_piece(const std::byte* address, const std::byte* begin, const std::byte* end) {
  if (address >= begin && address + 16 <= end) return load_stream(address);
  uint32_t words[4] = {0, 0, 0, 0};
  for (int i = 0; i < 8; i++) {
    const std::byte* half = address + 2 * i;
    if (half < begin || half >= end) continue;
    words[i / 2] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(half)) << (i % 2 * 16);
  }
  return {words[0], words[1], words[2], words[3]};
}

// The weight rows of one warp, and the pieces of them that this lane carries from chunk to chunk.
template <typename Weight>
struct Chunks {
  static constexpr int kBlockUnits = info(Weight::kType).block_elements / kBlockElements;  // 32s of a block
  static constexpr int kChunkUnits = matvec_step(Weight::kType).elements / kBlockElements;
  static constexpr int kChunkBytes = kChunkUnits / kBlockUnits * Weight::kBytes;
  static constexpr int kPieces = kChunkBytes / 16 + 1;  // of one row, if it is not aligned
  static constexpr int kSlots = (Weight::kRows * kPieces + kWarpLanes - 1) / kWarpLanes;
  static constexpr int kWords = 4 * Weight::kRows * kPieces;  // staged by one warp
  static_assert(kChunkBytes % 16 == 0);                       // the misalignment of a row stays

  const std::byte* begin;  // of the tensor
  const std::byte* end;
  const std::byte* start[kSlots];  // of this lane's piece in chunk 0; the piece may begin up to 14 bytes before its row
  int skew[kSlots];                // from the start of the row to there; past every chunk where the lane has no piece
  uint4 held[kSlots];
  int row_bytes;

  __device__ __forceinline__ void aim(const MatvecWeight& weight, int first_row, int lane) {
    begin = weight.data;
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

  __device__ __forceinline__ bool needs(int slot, int chunk) const {
    return skew[slot] < kChunkBytes && skew[slot] + chunk * kChunkBytes < row_bytes;
  }

  __device__ __forceinline__ void fetch(int chunk) {
#pragma unroll
    for (int s = 0; s < kSlots; s++) {
      if (needs(s, chunk)) held[s] = load_piece(start[s] + static_cast<int64_t>(chunk) * kChunkBytes, begin, end);
    }
  }

  __device__ __forceinline__ void stage(int chunk, Shared<uint32_t> words, int lane) const {
#pragma unroll
    for (int s = 0; s < kSlots; s++) {
      if (needs(s, chunk)) store_words(words, 4 * (s * kWarpLanes + lane), held[s]);
    }
  }
};

// Rows [kX * blockIdx.y, ...) of x with the rows of the weights that blockIdx.x stands for.
template <typename Weight, int kX>
__global__ void __launch_bounds__(kMatvecThreads)
    matvec_quantized(MatvecWeights weights, QuantizedX x, int rows_of_x, int blocks, int splits) {
  constexpr int kRows = Weight::kRows;
  using Pieces = Chunks<Weight>;
  SPILLWAY_SHARED(uint32_t, staged, kMatvecWarps * Pieces::kWords);
  SPILLWAY_SHARED(float, partial, kMatvecWarps* kRows* kX);
  const int lane = lane_index();
  const int warp = warp_index();
  const MatvecWeight weight = weights.of_block(static_cast<int>(blockIdx.x));
  const int first_row = (static_cast<int>(blockIdx.x) - weight.first_block) * (kMatvecWarps / splits) * kRows;
  const int warp_row = first_row + warp / splits * kRows;
  const int first_x = static_cast<int>(blockIdx.y) * kX;
  const int chunks = (blocks + Pieces::kChunkUnits - 1) / Pieces::kChunkUnits;
  const Shared<uint32_t> words = staged + warp * Pieces::kWords;
  int misaligned[kRows];
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    misaligned[r] = static_cast<int>(reinterpret_cast<uintptr_t>(weight.row(warp_row + r)) % 16);
  }

  float acc[kRows * kX] = {};
  Pieces pieces;
  pieces.aim(weight, warp_row, lane);
  if (warp % splits < chunks) pieces.fetch(warp % splits);
  for (int chunk = warp % splits; chunk < chunks; chunk += splits) {
    pieces.stage(chunk, words, lane);
    __syncwarp();
    if (chunk + splits < chunks) pieces.fetch(chunk + splits);
#pragma unroll
    for (int unit = lane; unit < Pieces::kChunkUnits; unit += kWarpLanes) {
      const int block = chunk * Pieces::kChunkUnits + unit;  // of x
      if (block >= blocks) break;
      const int at = unit / Pieces::kBlockUnits * Weight::kBytes;
      Weight w[kRows];
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        w[r].unpack(words, 16 * r * Pieces::kPieces + misaligned[r] + at, unit % Pieces::kBlockUnits);
      }
#pragma unroll
      for (int j = 0; j < kX; j++) {
        const int64_t x_block = static_cast<int64_t>(min_of(first_x + j, rows_of_x - 1)) * blocks + block;
        const uint4 low = load_cached(x.codes + x_block * kBlockElements);
        const uint4 high = load_cached(x.codes + x_block * kBlockElements + 16);
        const uint32_t codes[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const XScale scale = x.scales[x_block];
#pragma unroll
        for (int r = 0; r < kRows; r++) acc[r * kX + j] = w[r].fold(codes, scale.scale, scale.sum, acc[r * kX + j]);
      }
    }
    __syncwarp();
  }

  lane_sums<kRows * kX, 16>(acc, lane);
  if (writes_sum<kRows * kX, 16>(lane)) partial[warp * kRows * kX + summed_index<kRows * kX, 16>(lane)] = acc[0];
  __syncthreads();
  write_results<kRows, kX>(weight, partial, splits, first_row, first_x, rows_of_x);
}

template <typename Weight, int kX>
cudaError_t launch_tiles(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  const dim3 grid(static_cast<uint32_t>(weights.grid_blocks), static_cast<uint32_t>(ceil_div(shape.rows_of_x, kX)));
  return launch(matvec_quantized<Weight, kX>, grid, dim3(kMatvecThreads), 0, stream, weights, QuantizedX::in(shape),
                shape.rows_of_x, shape.x.cols / kBlockElements, shape.splits);
}

template <typename Weight>
cudaError_t launch_type(cudaStream_t stream, const MatvecWeights& weights, const MatvecShape& shape) {
  if (shape.rows_of_x == 1) return launch_tiles<Weight, 1>(stream, weights, shape);
  if (shape.rows_of_x == 2) return launch_tiles<Weight, 2>(stream, weights, shape);
  if (shape.rows_of_x <= 4) return launch_tiles<Weight, 4>(stream, weights, shape);
  return launch_tiles<Weight, kMatvecRowsOfX>(stream, weights, shape);
}

}  // namespace

cudaError_t launch_quantize(cudaStream_t stream, const MatvecShape& shape) {
  if (shape.x.cols == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(ceil_div(shape.x.cols, 4 * kQuantizeThreads)),
                  static_cast<uint32_t>(shape.rows_of_x));
  return launch(shape.x_aligned ? quantize_rows<true> : quantize_rows<false>, grid, dim3(kQuantizeThreads), 0, stream,
                shape.x, QuantizedX::in(shape));
}

cudaError_t launch_matvec_quantized(cudaStream_t stream, DType type, const MatvecWeights& weights,
                                    const MatvecShape& shape) {
  switch (type) {
    case DType::q8_0:
      return launch_type<WeightQ8_0>(stream, weights, shape);
    case DType::q4_0:
      return launch_type<WeightQ4_0>(stream, weights, shape);
    case DType::q4_1:
      return launch_type<WeightQ4_1>(stream, weights, shape);
    case DType::q5_0:
      return launch_type<WeightQ5_0>(stream, weights, shape);
    case DType::q5_1:
      return launch_type<WeightQ5_1>(stream, weights, shape);
    case DType::iq4_nl:
      return launch_type<WeightIQ4_NL>(stream, weights, shape);
    case DType::q2_k:
      return launch_type<WeightQ2_K>(stream, weights, shape);
    case DType::q3_k:
      return launch_type<WeightQ3_K>(stream, weights, shape);
    case DType::q4_k:
      return launch_type<WeightQ4_K>(stream, weights, shape);
    case DType::q5_k:
      return launch_type<WeightQ5_K>(stream, weights, shape);
    case DType::q6_k:
      return launch_type<WeightQ6_K>(stream, weights, shape);
    case DType::iq4_xs:
      return launch_type<WeightIQ4_XS>(stream, weights, shape);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace spillway::cuda
