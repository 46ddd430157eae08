// CpuKernels: the CPU's inner loops, one table for each instruction set, chosen at run time. Everything here runs on
// the calling thread; splitting work into tasks is cpu_ops.cpp's.
//
// The files behind the tables are compiled with flags of their own, so what they share is plain structs and pointers:
// an inline function instantiated there could carry its wide instructions into the rest of the program.
//
// Whatever the instruction set, one result is computed in one order, which depends on its own row alone:
//   quantised  out = sum over blocks of 32, ascending, or their halves where these have scales of their own, of
//              fma(float(exact integer dot product), d_w * d_a, out), then fma(m_w, d_a * sum of codes, out) if affine
//   float      16 partial sums over k mod 16, ascending, then folded 8, 4, 2, 1
// so AVX2 and AVX-512 agree to the bit; scalar has no fused multiply-add and agrees within rounding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_span.h"
#include "kernels/selection.h"
#include "kernels/shape.h"
#include "kernels/view.h"

// Of the small steps of an inner loop: what they make belongs in registers, and one that is called after all, because
// the compiler finds the loop long enough, halves its speed.
#define SPILLWAY_INLINE [[gnu::always_inline]] inline

namespace spillway {

inline constexpr int kLanes = 16;
// Most rows of activations that one pass over a packed tile serves, and over weights in place.
inline constexpr int kPackedGroup = 12;
inline constexpr int kInPlaceGroup = 8;
// Weight rows of a packed tile.
inline constexpr int kTileRows = 16;
// Packed block of a tile: codes [8 groups of 4 k][16 rows][4], unsigned or signed as the instruction set likes; then d
// [2 halves][16] f32, then m [2][16] f32; formats with one scale to a block leave the second half alone.
inline constexpr int kPackedD = kTileRows * 32;
inline constexpr int kPackedM = kPackedD + 2 * kTileRows * 4;
inline constexpr int kPackedBlockBytes = kPackedM + 2 * kTileRows * 4;
// Activation blocks of smaller magnitude count as zero: the inverse of their scale would overflow.
inline constexpr float kLeastActivation = 1e-30f;
// Most queries (rows x heads) of a tile of attention.
inline constexpr int kTileQueries = 64;

// 32 activations of one row. Rows are quantised in groups that share a pass, block-major: block b of row i of a group
// of m rows is at [b * m + i].
struct ActBlock {
  int8_t codes[32];  // round(x / scale), in [-127, 127]
  float scale;       // largest magnitude / 127
  float scaled_sum;  // scale * sum of codes
  float scaled_halves[2];
  int32_t minus_8_sums;
  int32_t minus_128_sums;
  int32_t minus_4_halves[2];
};

// Weight rows against one group of quantised activations.
struct QuantProduct {
  DType dtype;
  const std::byte* weight;  // in place: rows of blocks; packed: a tile
  uint64_t weight_stride;   // in place only
  int64_t rows;             // in place: any multiple of kTileRows; packed: 1 .. kTileRows
  int64_t blocks;           // of 32
  const ActBlock* x;
  int m;  // rows of the group
  float* out;
  uint64_t out_stride;  // bytes
  bool add;
};

// Float weights go through the cache in blocks: rows of x and rows of weights of a call of kLeastBlockRows rows or
// more, and columns held at a time.
inline constexpr int kLeastBlockRows = 4;
inline constexpr int kFloatRows = 48;
inline constexpr int kFloatCols = 16;
inline constexpr int kFloatChunk = 512;
constexpr int64_t float_scratch_floats() { return kFloatRows * kFloatCols * kLanes + kFloatCols * kFloatChunk; }

// Float weights; x [m x k], weight [n x k], out [m x n].
struct FloatProduct {
  DType dtype;
  const std::byte* weight;
  uint64_t weight_stride;
  int64_t n;
  int64_t k;
  const float* x;
  uint64_t x_stride;
  int64_t m;
  float* out;
  uint64_t out_stride;
  bool add;
  float* scratch;  // float_scratch_floats
};

// Queries of one KV head (a group's heads, or some of them, for some rows) against spans; the head's page lies
// head_offset bytes into each row of pages, packed_head_offset bytes into a packed one.
struct AttentionTile {
  const KvSpan* spans;
  int64_t span_count;
  DType dtype;  // of pages that are not packed: f16, or f32, which are neither packed nor chosen from
  uint64_t head_offset;
  uint64_t packed_head_offset;
  PackedPage packed;
  int head_dim;
  int heads;  // consecutive query heads; rows * heads <= kTileQueries
  int rows;
  int first_position;  // of row 0; a row sees positions up to its own
  int window;          // and so many of them; 0: all
  const float* q;
  uint64_t q_stride;  // bytes from row to row
  float scale;
  float* states;
  uint64_t states_stride;
  const GranulePlace* places;  // attend: of the span's tokens, in place of its rows
  int granule_tokens;
  bool fresh;      // attend_chunk: starts from empty states
  float* scratch;  // attention_scratch_floats
};

// A head's partial queries against the partial keys of one page: its group's scores, as weights exp(score - largest).
struct KeyScores {
  const std::byte* page;  // of PartialKeyFormat
  int rank;
  int bits;
  int tokens;       // of the page
  int heads;        // of the group
  float* scratch;   // the first head's row of score_columns floats
  uint64_t stride;  // bytes to the next head's
  int64_t scores;   // floats of a row before this page's scores
  int64_t largest;  // and before its largest; the sum follows
  float scale;
};

// Weights of a page's granules, from the weights of its tokens and what these are multiplied by.
struct GranuleSums {
  const float* scratch;  // the first head's row
  uint64_t stride;
  int64_t scores;
  int64_t factor;
  int heads;
  int tokens;
  int granule_tokens;
  float* out;  // of the page's first granule
};

// Queries of a group against the bounds of up to kLanes granules: of each the sum over channels of max(query *
// smallest, query * largest).
struct BoundScores {
  const std::byte* granules[kLanes];  // [2][head_dim] half precision each, the smallest first
  int count;
  int head_dim;
  int heads;
  const float* q;   // [heads x head_dim]
  float* out;       // the first head's, of the first granule
  uint64_t stride;  // bytes to the next head's
};

inline constexpr int kMostHeadDim = 256;
// A tile's rows are gathered with 32-bit offsets.
inline constexpr uint64_t kMostWeightStride = (uint64_t{1} << 31) / kTileRows - 64;

constexpr int64_t padded_head(int head_dim) { return (head_dim + kLanes - 1) / kLanes * kLanes; }
constexpr int64_t attention_scratch_floats(int head_dim) {
  return kTileQueries * (kSpanTokens + 2 * padded_head(head_dim) + 4) + 2 * kPageTokens * padded_head(head_dim);
}

struct CpuKernels {
  const char* name;

  // x [32 * blocks] -> out[b * step].
  void (*quantize)(const float* x, int64_t blocks, ActBlock* out, int64_t step);
  // Weight rows [rows x blocks] -> a packed tile; rows < kTileRows repeats the last one.
  void (*pack)(DType, const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile);
  void (*product_in_place)(const QuantProduct&);
  void (*product_packed)(const QuantProduct&);
  void (*product_float)(const FloatProduct&);

  // One row against one span.
  void (*attend)(const AttentionTile&);
  void (*attend_chunk)(const AttentionTile&);
  // out [tokens x head_dim] f16: the keys of a packed page's first tokens; header: where the page's own lies, of which
  // only one granule, in the first one's place, may be at hand.
  void (*unpack_keys)(const PackedPage&, const std::byte* header, const std::byte* packed, int tokens, std::byte* out);
  void (*score_page)(const KeyScores&);
  void (*sum_granules)(const GranuleSums&);
  void (*score_bounds)(const BoundScores&);
  // scores become exp(scale * score - largest), in place; the largest of scale * score, and the sum of what they
  // become.
  void (*softmax)(float* scores, int count, float scale, float* largest, float* sum);
  // States [count] at `states`, `stride` bytes apart -> out [head_dim].
  void (*merge)(const float* states, uint64_t stride, int count, int head_dim, float* out);

  void (*norm)(const float* x, const float* weight, float eps, int64_t k, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t k, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  // up may be null.
  void (*activate)(Activation, const float* gate, const float* up, int64_t n, float* out);
  // All heads of one row.
  void (*rotate)(float* x, int heads, int head_dim, RotationStyle style, const float* table, int pairs);
  void (*to_f16)(const float* x, int64_t n, std::byte* out);
  // Of floating-point types.
  void (*widen)(DType, const std::byte* row, int64_t k, float* out);
};

const CpuKernels& scalar_kernels();
const CpuKernels& avx2_kernels();
const CpuKernels& avx512_kernels();

}  // namespace spillway
