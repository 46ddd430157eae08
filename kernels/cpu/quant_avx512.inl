// Quantised products with AVX-512 VNNI. A lane is a weight row: 16 rows' blocks are transposed as they are read, so
// that each row keeps one accumulator, in block order, and weights need no second copy in another layout.

namespace spillway {
namespace {

static_assert(kRowLanes == kTileRows);

// The instruction multiplies unsigned codes: signed ones are moved up by 128.
template <Codes kCodes>
constexpr int kOffset = kCodes.is_signed ? 128 : kCodes.offset;

template <typename Format>
SPILLWAY_INLINE void load_unsigned(Format& format, const Rows& rows, int64_t at, int b, RowsBlock* block) {
  format.block(rows, at, b, block);
  if constexpr (Format::kCodes.is_signed) {
    for (Words& codes : block->codes) codes = _mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
}

// What a dot product with unsigned codes starts from: minus the offset times the sum of the activations.
template <Codes kCodes>
SPILLWAY_INLINE __m512i minus_offsets(const ActBlock& x, int half) {
  if constexpr (kCodes.halves) {
    const __m512i fours = _mm512_set1_epi32(x.minus_4_halves[half]);
    return kOffset<kCodes> == 0 ? _mm512_setzero_si512() : kOffset<kCodes> == 4 ? fours : _mm512_slli_epi32(fours, 3);
  }
  if (kOffset<kCodes> == 0 || half == 1) return _mm512_setzero_si512();
  if (kOffset<kCodes> == 128) return _mm512_set1_epi32(x.minus_128_sums);
  const __m512i eights = _mm512_set1_epi32(x.minus_8_sums);
  return kOffset<kCodes> == 8 ? eights : _mm512_slli_epi32(eights, 1);
}

// Adds one block of one row of activations.
template <Codes kCodes>
SPILLWAY_INLINE __m512 add_block(const RowsBlock& b, const ActBlock& x, __m512 sum) {
  static_assert(kCodes.halves
                    ? kOffset<kCodes> == 0 || kOffset<kCodes> == 4 || kOffset<kCodes> == 32
                    : kOffset<kCodes> == 0 || kOffset<kCodes> == 8 || kOffset<kCodes> == 16 || kOffset<kCodes> == 128);
  const auto four = [&](int g) {
    int32_t codes;
    __builtin_memcpy(&codes, x.codes + 4 * g, sizeof codes);
    return _mm512_set1_epi32(codes);
  };
  __m512i dots[2] = {minus_offsets<kCodes>(x, 0), minus_offsets<kCodes>(x, 1)};
  for (int g = 0; g < 4; g++) {
    dots[0] = _mm512_dpbusd_epi32(dots[0], b.codes[g], four(g));
    dots[1] = _mm512_dpbusd_epi32(dots[1], b.codes[4 + g], four(4 + g));
  }
  for (int h = 0; h < 2; h++) {  // known when compiled; an offset is in the others
    if (b.sixteenfold[h]) dots[h] = _mm512_srai_epi32(dots[h], 4);
  }
  const __m512 scale = _mm512_set1_ps(x.scale);
  if constexpr (kCodes.halves) {
    for (int half = 0; half < 2; half++) {
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[half]), _mm512_mul_ps(b.d[half], scale), sum);
      if constexpr (kCodes.affine) sum = _mm512_fmadd_ps(b.m[half], _mm512_set1_ps(x.scaled_halves[half]), sum);
    }
  } else {
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(dots[0], dots[1])), _mm512_mul_ps(b.d[0], scale), sum);
    if constexpr (kCodes.affine) sum = _mm512_fmadd_ps(b.m[0], _mm512_set1_ps(x.scaled_sum), sum);
  }
  return sum;
}

template <int M>
inline void store_tile(const QuantProduct& p, int64_t first, int rows, const __m512 (&sums)[M]) {
  const __mmask16 mask = first_lanes(rows);
  for (int i = 0; i < M; i++) {
    float* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + i * p.out_stride) + first;
    const __m512 value = p.add ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sums[i]) : sums[i];
    _mm512_mask_storeu_ps(out, mask, value);
  }
}

// Asks the second cache for some rows' next blocks, all of them in the course of this block: its misses would wait
// behind those that memory is asked for.
template <typename Format>
SPILLWAY_INLINE void prefetch_next(const std::byte* tile, int64_t stride, int b) {
  constexpr int kRows = kTileRows / kFormatBlocks<Format>;
  for (int r = kRows * b; r < kRows * (b + 1); r++) {
    const std::byte* next = tile + r * stride + kFormatBytes<Format>;
    for (int at = 0; at < kFormatBytes<Format>; at += 64) _mm_prefetch(next + at, _MM_HINT_T0);
  }
}

template <typename Format, int M>
void in_place(const QuantProduct& p) {
  constexpr int kBytes = kFormatBytes<Format>;
  constexpr int kBlocks = kFormatBlocks<Format>;
  constexpr int kStep = kBlocks < 4 ? kBlocks : 4;  // blocks that share what is loaded once
  constexpr int kAhead = kTileRows * kBytes * kStep / kBlocks;
  constexpr int kLines = (kAhead + 63) / 64;
  const auto stride = static_cast<int64_t>(p.weight_stride);
  for (int64_t n = 0; n < p.rows; n += kTileRows) {
    const std::byte* tile = p.weight + n * stride;
    // Rows are read side by side, sixteen streams too short for the hardware's prefetcher: the next tile is asked for
    // front to back while this one is computed. What follows the last one is the worker's next task, as a rule.
    const std::byte* ahead = tile + kTileRows * stride;
    const Rows rows(tile, stride);
    Format format;
    __m512 sums[M];
    for (int i = 0; i < M; i++) sums[i] = _mm512_setzero_ps();
    const ActBlock* x = p.x;
    for (int64_t at = 0; at < p.blocks / kBlocks * kBytes; at += kBytes) {
      format.begin(rows, at);
      for (int b = 0; b < kBlocks; b += kStep, ahead += kAhead) {
#pragma GCC unroll 4
        for (int j = 0; j < kStep; j++, x += M) {
          for (int asked = kLines * j / kStep; asked < kLines * (j + 1) / kStep; asked++) {
            _mm_prefetch(ahead + 64 * asked, _MM_HINT_T1);
          }
          if constexpr (kBlocks > 1) prefetch_next<Format>(tile + at, stride, b + j);
          RowsBlock block;
          load_unsigned(format, rows, at, b + j, &block);
          for (int i = 0; i < M; i++) sums[i] = add_block<Format::kCodes>(block, x[i], sums[i]);
        }
      }
    }
    store_tile<M>(p, n, kTileRows, sums);
  }
}

template <Codes kCodes, int M>
void packed(const QuantProduct& p) {
  __m512 sums[M];
  for (int i = 0; i < M; i++) sums[i] = _mm512_setzero_ps();
  const ActBlock* x = p.x;
  const std::byte* tile = p.weight;
  for (int64_t b = 0; b < p.blocks; b++, x += M, tile += kPackedBlockBytes) {
    RowsBlock block;
    for (int g = 0; g < 8; g++) block.codes[g] = _mm512_loadu_si512(tile + 64 * g);
    for (int half = 0; half < (kCodes.halves ? 2 : 1); half++) {
      block.d[half] = _mm512_loadu_ps(tile + kPackedD + 64 * half);
      if (kCodes.affine) block.m[half] = _mm512_loadu_ps(tile + kPackedM + 64 * half);
    }
    for (int i = 0; i < M; i++) sums[i] = add_block<kCodes>(block, x[i], sums[i]);
  }
  store_tile<M>(p, 0, static_cast<int>(p.rows), sums);
}

template <typename Format>
void pack_rows(const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  constexpr int kBytes = kFormatBytes<Format>;
  std::byte copies[kTileRows * kBytes];  // of a tile that ends the matrix: its last row is repeated
  const Rows whole(weight, static_cast<int64_t>(stride));
  const Rows copied(copies, kBytes);
  Format format;
  for (int64_t at = 0; at < blocks / kFormatBlocks<Format> * kBytes; at += kBytes) {
    if (rows < kTileRows) {
      for (int r = 0; r < kTileRows; r++) {
        __builtin_memcpy(copies + r * kBytes, weight + (r < rows ? r : rows - 1) * stride + at, kBytes);
      }
    }
    const Rows& from = rows < kTileRows ? copied : whole;
    const int64_t from_at = rows < kTileRows ? 0 : at;
    format.begin(from, from_at);
    for (int b = 0; b < kFormatBlocks<Format>; b++, tile += kPackedBlockBytes) {
      RowsBlock block;
      load_unsigned(format, from, from_at, b, &block);
      for (int g = 0; g < 8; g++) {
        const Words codes = block.sixteenfold[g / 4] ? _mm512_srli_epi32(block.codes[g], 4) : block.codes[g];
        _mm512_storeu_si512(tile + 64 * g, codes);
      }
      for (int half = 0; half < (Format::kCodes.halves ? 2 : 1); half++) {
        _mm512_storeu_ps(tile + kPackedD + 64 * half, block.d[half]);
        if (Format::kCodes.affine) _mm512_storeu_ps(tile + kPackedM + 64 * half, block.m[half]);
      }
    }
  }
}

void pack(DType type, const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  with_format(type, [=]<typename Format>(Of<Format>) { pack_rows<Format>(weight, stride, rows, blocks, tile); });
}

using Product = void (*)(const QuantProduct&);

template <typename Format>
constexpr Product kInPlace[kInPlaceGroup] = {in_place<Format, 1>, in_place<Format, 2>, in_place<Format, 3>,
                                             in_place<Format, 4>, in_place<Format, 5>, in_place<Format, 6>,
                                             in_place<Format, 7>, in_place<Format, 8>};
template <Codes kCodes>
constexpr Product kPacked[kPackedGroup] = {packed<kCodes, 1>,  packed<kCodes, 2>,  packed<kCodes, 3>,
                                           packed<kCodes, 4>,  packed<kCodes, 5>,  packed<kCodes, 6>,
                                           packed<kCodes, 7>,  packed<kCodes, 8>,  packed<kCodes, 9>,
                                           packed<kCodes, 10>, packed<kCodes, 11>, packed<kCodes, 12>};

void product_in_place(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { kInPlace<Format>[p.m - 1](p); });
}

void product_packed(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { kPacked<Format::kCodes>[p.m - 1](p); });
}

void quantize(const float* x, int64_t blocks, ActBlock* out, int64_t step) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int64_t b = 0; b < blocks; b++, x += 32, out += step) {
    const __m512 x0 = _mm512_loadu_ps(x);
    const __m512 x1 = _mm512_loadu_ps(x + 16);
    // Compared as integers: NaN is larger than all, so that it reaches the scale.
    const __m512i most = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(x1), magnitude));
    const float largest =
        _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(_mm512_reduce_max_epu32(most)))));
    const bool nothing = largest < kLeastActivation;
    const float scale = nothing ? 0.0f : largest / 127.0f;
    const __m512 inverse = _mm512_set1_ps(nothing ? 0.0f : 127.0f / largest);
    const __m512i least = _mm512_set1_epi32(-127);  // met only by what is not finite
    const __m512i c0 = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse)), least);
    const __m512i c1 = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse)), least);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out->codes), _mm512_cvtsepi32_epi8(c0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out->codes + 16), _mm512_cvtsepi32_epi8(c1));
    set_sums(scale, _mm512_reduce_add_epi32(c0), _mm512_reduce_add_epi32(c1), out);
  }
}

}  // namespace
}  // namespace spillway
