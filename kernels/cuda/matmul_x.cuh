// The rows of x in the tiles of quantised products: how a thread block brings them into shared memory, two blocks of 32
// columns at a step. x was quantised before (quantize.cuh).
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/matvec.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {

inline constexpr int kStepBlocks = 2;
inline constexpr int kXWords = kStepBlocks * kBlockElements / 4;  // of a row of x in a step: 4 pieces of 16 bytes
inline constexpr int kScaleWords = sizeof(TileScale) / 4;

// Where in a stage they lie, from word kFirst on: codes, then scales.
template <int kX, int kFirst>
struct StagedX {
  static constexpr int kScales = kFirst + kX * kXWords;
  static constexpr int kEnd = kScales + kStepBlocks * kX * kScaleWords;

  // The pieces of a row are exchanged by its index, so that 8 rows at the same piece lie in different banks.
  __device__ __forceinline__ static int piece(int row, int piece) {
    return kFirst + row * kXWords + (piece ^ (row / 2 % 4)) * 4;
  }
};

// What one thread copies, always from the same rows: one or two pieces of the codes of a row, a scale.
template <typename Place, int kX, int kThreads>
struct FeedOfX {
  static constexpr int kPieces = kXWords / 4;
  static constexpr int kSlots = kX * kPieces / kThreads;
  static constexpr int kSharers = kPieces / kSlots;  // threads to a row
  static_assert(kSlots * kThreads == kX * kPieces && kStepBlocks * kX <= kThreads);

  const std::byte* codes;  // the row
  const TileScale* scale;
  int rows;
  int blocks;

  __device__ __forceinline__ FeedOfX(const TiledX& x, const RowRange& range) : rows(x.rows), blocks(x.blocks) {
    const int thread = static_cast<int>(threadIdx.x);
    const int last = range.end - 1;
    codes = x.codes + static_cast<int64_t>(min_of(range.first + thread / kSharers, last)) * blocks * kBlockElements;
    scale = x.scales + min_of(range.first + thread % kX, last);
  }

  // Rows past the range are its last again, and what lies past the last block is zero.
  __device__ __forceinline__ void fetch(Shared<uint32_t> stage, int step) const {
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int s = 0; s < kSlots; s++) {
      const int piece = thread % kSharers * kSlots + s;
      const int block = step * kStepBlocks + piece / 2;
      const bool there = block < blocks;
      copy_async<16>(stage, Place::piece(thread / kSharers, piece),
                     codes + (there ? static_cast<int64_t>(block) * kBlockElements + piece % 2 * 16 : 0),
                     there ? 16 : 0);
    }
    if (thread < kStepBlocks * kX) {
      const int block = step * kStepBlocks + thread / kX;
      const bool there = block < blocks;
      copy_async<8>(stage, Place::kScales + thread * kScaleWords,
                    scale + (there ? static_cast<int64_t>(block) * rows : 0), there ? 8 : 0);
    }
  }
};

// An integer below 2^22, kept by its product as one added to the bits of 1.5 * 2^23, as a float: exactly.
inline constexpr int kExactZero = 0x4b400000;
__device__ __forceinline__ float exact_float(int bits) {
  return float_from_bits(static_cast<uint32_t>(bits)) - 12582912.0f;
}

}  // namespace spillway::cuda
