// Quantised products with AVX2. A lane is a weight row, as with AVX-512: 8 rows' blocks are transposed as they are
// read. No 16-bit sum saturates: codes of activations lie in [-127, 127], so that
//   unsigned  as many pairs of products are added in 16 bits as fit (8 of nibbles: 8 * 2 * 15 * 127 = 30480);
//   signed    one pair of at most 128 * 127 makes 32512, |w| taken as unsigned and its sign given to the activation.

namespace spillway {
namespace {

SPILLWAY_INLINE __m256i four_codes(const ActBlock& x, int g) {
  int32_t codes;
  __builtin_memcpy(&codes, x.codes + 4 * g, sizeof codes);
  return _mm256_set1_epi32(codes);
}

// dots[i] = the dot products of groups [first, first + count) of 4 elements with row i of activations.
template <Codes kCodes, int M>
SPILLWAY_INLINE void dot_groups(const Words* codes, const ActBlock* x, int first, int count, __m256i (&dots)[M]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < M; i++) dots[i] = _mm256_setzero_si256();
  if constexpr (kCodes.is_signed) {
    for (int g = first; g < first + count; g++) {
      const __m256i magnitude = _mm256_abs_epi8(codes[g]);
      for (int i = 0; i < M; i++) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_codes(x[i], g), codes[g]));
        dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs, ones));
      }
    }
  } else {
    constexpr int kPairs = 32767 / (2 * 127 * kCodes.most);
    static_assert(kPairs >= 1);
    for (int g = first; g < first + count; g += kPairs) {
      __m256i pairs[M];
      for (int i = 0; i < M; i++) pairs[i] = _mm256_maddubs_epi16(codes[g], four_codes(x[i], g));
      for (int j = g + 1; j < g + kPairs && j < first + count; j++) {
        for (int i = 0; i < M; i++) {
          pairs[i] = _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(codes[j], four_codes(x[i], j)));
        }
      }
      for (int i = 0; i < M; i++) dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs[i], ones));
    }
  }
}

// Minus the offset of the codes times the sum of the activations.
template <Codes kCodes>
SPILLWAY_INLINE __m256i minus_offsets(const ActBlock& x, int half) {
  if constexpr (kCodes.halves) {
    static_assert(kCodes.offset == 0 || kCodes.offset == 4 || kCodes.offset == 32);
    const __m256i fours = _mm256_set1_epi32(x.minus_4_halves[half]);
    return kCodes.offset == 4 ? fours : _mm256_slli_epi32(fours, 3);
  } else {
    static_assert(kCodes.offset == 0 || kCodes.offset == 8 || kCodes.offset == 16);
    const __m256i eights = _mm256_set1_epi32(x.minus_8_sums);
    return kCodes.offset == 8 ? eights : _mm256_slli_epi32(eights, 1);
  }
}

// Adds one block of M rows of activations.
template <Codes kCodes, int M>
SPILLWAY_INLINE void add_block(const RowsBlock& b, const ActBlock* x, __m256 (&sums)[M]) {
  constexpr int kParts = kCodes.halves ? 2 : 1;
  for (int part = 0; part < kParts; part++) {
    __m256i dots[M];
    dot_groups<kCodes, M>(b.codes, x, part * 8 / kParts, 8 / kParts, dots);
    for (int i = 0; i < M; i++) {
      if constexpr (kCodes.offset != 0) dots[i] = _mm256_add_epi32(dots[i], minus_offsets<kCodes>(x[i], part));
      sums[i] =
          _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i]), _mm256_mul_ps(b.d[part], _mm256_set1_ps(x[i].scale)), sums[i]);
      if constexpr (kCodes.affine) {
        const float scaled_sum = kCodes.halves ? x[i].scaled_halves[part] : x[i].scaled_sum;
        sums[i] = _mm256_fmadd_ps(b.m[part], _mm256_set1_ps(scaled_sum), sums[i]);
      }
    }
  }
}

template <int M>
inline void store_half(const QuantProduct& p, int row, int64_t first, int rows, const __m256 (&sums)[M]) {
  for (int i = 0; i < M; i++) {
    float* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + (row + i) * p.out_stride) + first;
    if (rows >= kRowLanes) {
      _mm256_storeu_ps(out, p.add ? _mm256_add_ps(_mm256_loadu_ps(out), sums[i]) : sums[i]);
      continue;
    }
    float values[kRowLanes];
    _mm256_storeu_ps(values, sums[i]);
    for (int r = 0; r < rows; r++) out[r] = p.add ? out[r] + values[r] : values[r];
  }
}

template <typename Format, int M>
void in_place(const QuantProduct& p) {
  constexpr int kBytes = kFormatBytes<Format>;
  constexpr int kBlocks = kFormatBlocks<Format>;
  constexpr int kStep = kBlocks < 4 ? kBlocks : 4;  // blocks that share what is loaded once
  constexpr int kAhead = kRowLanes * kBytes * kStep / kBlocks;
  const auto stride = static_cast<int64_t>(p.weight_stride);
  for (int64_t n = 0; n < p.rows; n += kRowLanes) {
    const Rows rows(p.weight + n * stride, stride);
    // Rows are read side by side, in streams too short for the hardware's prefetcher: the next ones are asked for front
    // to back while these are computed. What follows the last ones is the worker's next task, as a rule.
    const std::byte* ahead = rows.base + kRowLanes * stride;
    Format format;
    __m256 sums[M];
    for (int i = 0; i < M; i++) sums[i] = _mm256_setzero_ps();
    const ActBlock* x = p.x;
    for (int64_t at = 0; at < p.blocks / kBlocks * kBytes; at += kBytes) {
      format.begin(rows, at);
      for (int b = 0; b < kBlocks; b += kStep, ahead += kAhead) {
        for (int asked = 0; asked < kAhead; asked += 64) _mm_prefetch(ahead + asked, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int j = 0; j < kStep; j++, x += M) {
          RowsBlock block;
          format.block(rows, at, b + j, &block);
          add_block<Format::kCodes, M>(block, x, sums);
        }
      }
    }
    store_half<M>(p, 0, n, kRowLanes, sums);
  }
}

// M of the group's rows, from `row` on, against one half of a tile.
template <Codes kCodes, int M>
inline void packed_half(const QuantProduct& p, int row, int half) {
  __m256 sums[M];
  for (int i = 0; i < M; i++) sums[i] = _mm256_setzero_ps();
  const ActBlock* x = p.x + row;
  const std::byte* tile = p.weight + 32 * half;
  for (int64_t b = 0; b < p.blocks; b++, x += p.m, tile += kPackedBlockBytes) {
    RowsBlock block;
    for (int g = 0; g < 8; g++) block.codes[g] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * g));
    for (int part = 0; part < (kCodes.halves ? 2 : 1); part++) {
      block.d[part] = _mm256_loadu_ps(reinterpret_cast<const float*>(tile + kPackedD + 64 * part));
      if (kCodes.affine) block.m[part] = _mm256_loadu_ps(reinterpret_cast<const float*>(tile + kPackedM + 64 * part));
    }
    add_block<kCodes, M>(block, x, sums);
  }
  store_half<M>(p, row, half * kRowLanes, static_cast<int>(p.rows) - half * kRowLanes, sums);
}

template <Codes kCodes>
void packed(const QuantProduct& p) {
  for (int half = 0; half * kRowLanes < p.rows; half++) {
    int row = 0;
    for (; row + 4 <= p.m; row += 4) packed_half<kCodes, 4>(p, row, half);
    if (p.m - row == 3) packed_half<kCodes, 3>(p, row, half);
    if (p.m - row == 2) packed_half<kCodes, 2>(p, row, half);
    if (p.m - row == 1) packed_half<kCodes, 1>(p, row, half);
  }
}

template <typename Format>
void pack_rows(const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  constexpr int kBytes = kFormatBytes<Format>;
  std::byte copies[kTileRows * kBytes];  // of a tile that ends the matrix: its last row is repeated
  for (int64_t at = 0; at < blocks / kFormatBlocks<Format> * kBytes; at += kBytes) {
    const std::byte* from = weight + at;
    auto step = static_cast<int64_t>(stride);
    if (rows < kTileRows) {
      for (int r = 0; r < kTileRows; r++) {
        __builtin_memcpy(copies + r * kBytes, weight + (r < rows ? r : rows - 1) * stride + at, kBytes);
      }
      from = copies;
      step = kBytes;
    }
    for (int half = 0; half < 2; half++) {
      const Rows lanes(from + half * kRowLanes * step, step);
      Format format;
      format.begin(lanes, 0);
      for (int b = 0; b < kFormatBlocks<Format>; b++) {
        std::byte* to = tile + b * kPackedBlockBytes + 32 * half;
        RowsBlock block;
        format.block(lanes, 0, b, &block);
        for (int g = 0; g < 8; g++) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64 * g), block.codes[g]);
        for (int part = 0; part < (Format::kCodes.halves ? 2 : 1); part++) {
          _mm256_storeu_ps(reinterpret_cast<float*>(to + kPackedD + 64 * part), block.d[part]);
          if (Format::kCodes.affine) {
            _mm256_storeu_ps(reinterpret_cast<float*>(to + kPackedM + 64 * part), block.m[part]);
          }
        }
      }
    }
    tile += kFormatBlocks<Format> * kPackedBlockBytes;
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

void product_in_place(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { kInPlace<Format>[p.m - 1](p); });
}

void product_packed(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { packed<Format::kCodes>(p); });
}

// Codes of 8 activations; what is not finite gives one in range.
inline __m256i codes_of(__m256 x, __m256 inverse) {
  return _mm256_max_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)), _mm256_set1_epi32(-127));
}

inline __m128i fold_128(__m256i a) { return _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)); }

void quantize(const float* x, int64_t blocks, ActBlock* out, int64_t step) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  for (int64_t b = 0; b < blocks; b++, x += 32, out += step) {
    __m256 v[4];
    __m256i most =
        _mm256_setzero_si256();  // compared as integers: NaN is larger than all, so that it reaches the scale
    for (int i = 0; i < 4; i++) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    __m128i m4 = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m4 = _mm_max_epu32(m4, _mm_shuffle_epi32(m4, 0x4e));
    m4 = _mm_max_epu32(m4, _mm_shuffle_epi32(m4, 0xb1));
    const float largest = _mm_cvtss_f32(_mm_castsi128_ps(m4));
    const bool nothing = largest < kLeastActivation;
    const float scale = nothing ? 0.0f : largest / 127.0f;
    const __m256 inverse = _mm256_set1_ps(nothing ? 0.0f : 127.0f / largest);
    __m256i c[4];
    for (int i = 0; i < 4; i++) c[i] = codes_of(v[i], inverse);
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs work within 128-bit lanes
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out->codes), _mm256_permutevar8x32_epi32(bytes, order));
    // Four sums of the first half, then four of the second, folded at once.
    __m128i s = _mm_hadd_epi32(fold_128(_mm256_add_epi32(c[0], c[1])), fold_128(_mm256_add_epi32(c[2], c[3])));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    set_sums(scale, _mm_cvtsi128_si32(s), _mm_extract_epi32(s, 2), out);
  }
}

}  // namespace
}  // namespace spillway
