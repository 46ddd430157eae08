// Quantised products with AVX2. A lane is a weight row, as with AVX-512: 8 rows' blocks are transposed as they are
// read. No 16-bit sum saturates: codes of activations lie in [-127, 127], so that
//   nibbles  8 pairs of products of at most 15 * 127 make 30480;
//   bytes    one pair of at most 128 * 127 makes 32512, |w| taken as unsigned and its sign given to the activation.

namespace spillway {
namespace {

constexpr int kHalfRows = 8;

// 32 elements of 8 weight rows: w[g] holds elements 4g .. 4g+3 of each row; unsigned nibbles or signed bytes.
struct Block8 {
  __m256i w[8];
  __m256 d;
  __m256 m;  // Q4_1 only
};

constexpr int block_bytes_of(DType type) { return type == DType::q8_0 ? 34 : type == DType::q4_0 ? 18 : 20; }

// 16 bytes of each row: out[c] holds bytes 4c .. 4c+3 of rows 0 .. 7.
inline void load_16_bytes(const std::byte* rows, int64_t stride, __m256i* out) {
  __m256i z[4];  // row i, row i + 4
  for (int i = 0; i < 4; i++) {
    const __m128i upper = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + i * stride));
    const __m128i lower = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + (i + 4) * stride));
    z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(upper), lower, 1);
  }
  const __m256i low01 = _mm256_unpacklo_epi32(z[0], z[1]);
  const __m256i high01 = _mm256_unpackhi_epi32(z[0], z[1]);
  const __m256i low23 = _mm256_unpacklo_epi32(z[2], z[3]);
  const __m256i high23 = _mm256_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm256_unpacklo_epi64(low01, low23);
  out[1] = _mm256_unpackhi_epi64(low01, low23);
  out[2] = _mm256_unpacklo_epi64(high01, high23);
  out[3] = _mm256_unpackhi_epi64(high01, high23);
}

inline __m256i load_scales(const std::byte* rows, int64_t stride) {  // the gather instruction is slower on many
  const auto row = [&](int i) {
    int32_t bits;
    __builtin_memcpy(&bits, rows + i * stride, sizeof bits);
    return _mm256_set1_epi32(bits);
  };
  __m256i even = _mm256_blend_epi32(row(0), row(2), 0x04);
  __m256i odd = _mm256_blend_epi32(row(1), row(3), 0x08);
  even = _mm256_blend_epi32(even, row(4), 0x10);
  odd = _mm256_blend_epi32(odd, row(5), 0x20);
  even = _mm256_blend_epi32(even, row(6), 0x40);
  odd = _mm256_blend_epi32(odd, row(7), 0x80);
  return _mm256_blend_epi32(even, odd, 0xaa);
}

// The low halves of 8 words, as f16.
inline __m256 widen_low(__m256i words) {
  const __m256i halves = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

template <DType kType>
inline Block8 load_block(const std::byte* rows, int64_t stride) {
  Block8 b;
  const __m256i scales = load_scales(rows, stride);
  b.d = widen_low(scales);
  b.m = kType == DType::q4_1 ? widen_low(_mm256_srli_epi32(scales, 16)) : _mm256_setzero_ps();
  if constexpr (kType == DType::q8_0) {
    load_16_bytes(rows + 2, stride, b.w);
    load_16_bytes(rows + 18, stride, b.w + 4);
  } else {
    const __m256i low = _mm256_set1_epi8(15);
    load_16_bytes(rows + (kType == DType::q4_1 ? 4 : 2), stride, b.w);
    for (int c = 0; c < 4; c++) {
      b.w[4 + c] = _mm256_and_si256(_mm256_srli_epi16(b.w[c], 4), low);
      b.w[c] = _mm256_and_si256(b.w[c], low);
    }
  }
  return b;
}

inline __m256i four_codes(const ActBlock& x, int g) {
  int32_t codes;
  __builtin_memcpy(&codes, x.codes + 4 * g, sizeof codes);
  return _mm256_set1_epi32(codes);
}

// Adds block b of M rows of activations.
template <DType kType, int M>
inline void add_block(const Block8& b, const ActBlock* x, __m256 (&sums)[M]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i dots[M];
  for (int i = 0; i < M; i++) dots[i] = _mm256_setzero_si256();
  for (int g = 0; g < 8; g++) {
    if constexpr (kType == DType::q8_0) {
      const __m256i magnitude = _mm256_abs_epi8(b.w[g]);
      for (int i = 0; i < M; i++) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_codes(x[i], g), b.w[g]));
        dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(pairs, ones));
      }
    } else {
      for (int i = 0; i < M; i++) {
        dots[i] = _mm256_add_epi16(dots[i], _mm256_maddubs_epi16(b.w[g], four_codes(x[i], g)));
      }
    }
  }
  for (int i = 0; i < M; i++) {
    __m256i dot = kType == DType::q8_0 ? dots[i] : _mm256_madd_epi16(dots[i], ones);
    if constexpr (kType == DType::q4_0) dot = _mm256_add_epi32(dot, _mm256_set1_epi32(x[i].minus_8_sums));
    sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(b.d, _mm256_set1_ps(x[i].scale)), sums[i]);
    if constexpr (kType == DType::q4_1) sums[i] = _mm256_fmadd_ps(b.m, _mm256_set1_ps(x[i].scaled_sum), sums[i]);
  }
}

template <int M>
inline void store_half(const QuantProduct& p, int row, int64_t first, int rows, const __m256 (&sums)[M]) {
  for (int i = 0; i < M; i++) {
    float* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + (row + i) * p.out_stride) + first;
    if (rows >= kHalfRows) {
      _mm256_storeu_ps(out, p.add ? _mm256_add_ps(_mm256_loadu_ps(out), sums[i]) : sums[i]);
      continue;
    }
    float values[kHalfRows];
    _mm256_storeu_ps(values, sums[i]);
    for (int r = 0; r < rows; r++) out[r] = p.add ? out[r] + values[r] : values[r];
  }
}

template <DType kType, int M>
void in_place(const QuantProduct& p) {
  constexpr int kBytes = block_bytes_of(kType);
  const auto stride = static_cast<int64_t>(p.weight_stride);
  for (int64_t n = 0; n < p.rows; n += kHalfRows) {
    const std::byte* rows = p.weight + n * stride;
    // Rows are read side by side, in streams too short for the hardware's prefetcher: the next ones are asked for front
    // to back while these are computed.
    const std::byte* ahead = rows + kHalfRows * stride;
    __m256 sums[M];
    for (int i = 0; i < M; i++) sums[i] = _mm256_setzero_ps();
    const ActBlock* x = p.x;
    for (int64_t b = 0; b < p.blocks; b++, x += M, rows += kBytes, ahead += kHalfRows * kBytes) {
      for (int line = 0; line < kHalfRows * kBytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
      add_block<kType, M>(load_block<kType>(rows, stride), x, sums);
    }
    store_half<M>(p, 0, n, kHalfRows, sums);
  }
}

// M of the group's rows, from `row` on, against one half of a tile.
template <DType kType, int M>
inline void packed_half(const QuantProduct& p, int row, int half) {
  __m256 sums[M];
  for (int i = 0; i < M; i++) sums[i] = _mm256_setzero_ps();
  const ActBlock* x = p.x + row;
  const std::byte* tile = p.weight + 32 * half;
  for (int64_t b = 0; b < p.blocks; b++, x += p.m, tile += kPackedBlockBytes) {
    Block8 block;
    for (int g = 0; g < 8; g++) block.w[g] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * g));
    block.d = _mm256_loadu_ps(reinterpret_cast<const float*>(tile + 512));
    block.m = _mm256_loadu_ps(reinterpret_cast<const float*>(tile + 576));
    add_block<kType, M>(block, x, sums);
  }
  store_half<M>(p, row, half * kHalfRows, static_cast<int>(p.rows) - half * kHalfRows, sums);
}

template <DType kType>
void packed(const QuantProduct& p) {
  for (int half = 0; half * kHalfRows < p.rows; half++) {
    int row = 0;
    for (; row + 4 <= p.m; row += 4) packed_half<kType, 4>(p, row, half);
    if (p.m - row == 3) packed_half<kType, 3>(p, row, half);
    if (p.m - row == 2) packed_half<kType, 2>(p, row, half);
    if (p.m - row == 1) packed_half<kType, 1>(p, row, half);
  }
}

template <DType kType>
void pack_rows(const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  constexpr int kBytes = block_bytes_of(kType);
  std::byte copies[kTileRows * kBytes];  // of a tile that ends the matrix: its last row is repeated
  for (int64_t b = 0; b < blocks; b++, tile += kPackedBlockBytes) {
    const std::byte* from = weight + b * kBytes;
    auto step = static_cast<int64_t>(stride);
    if (rows < kTileRows) {
      for (int r = 0; r < kTileRows; r++) {
        __builtin_memcpy(copies + r * kBytes, weight + (r < rows ? r : rows - 1) * stride + b * kBytes, kBytes);
      }
      from = copies;
      step = kBytes;
    }
    for (int half = 0; half < 2; half++) {
      const Block8 block = load_block<kType>(from + half * kHalfRows * step, step);
      for (int g = 0; g < 8; g++) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + 64 * g + 32 * half), block.w[g]);
      }
      _mm256_storeu_ps(reinterpret_cast<float*>(tile + 512 + 32 * half), block.d);
      _mm256_storeu_ps(reinterpret_cast<float*>(tile + 576 + 32 * half), block.m);
    }
  }
}

void pack(DType type, const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  switch (type) {
    case DType::q8_0:
      return pack_rows<DType::q8_0>(weight, stride, rows, blocks, tile);
    case DType::q4_0:
      return pack_rows<DType::q4_0>(weight, stride, rows, blocks, tile);
    default:
      return pack_rows<DType::q4_1>(weight, stride, rows, blocks, tile);
  }
}

using Product = void (*)(const QuantProduct&);

template <DType kType>
constexpr Product kInPlace[kInPlaceGroup] = {in_place<kType, 1>, in_place<kType, 2>, in_place<kType, 3>,
                                             in_place<kType, 4>, in_place<kType, 5>, in_place<kType, 6>,
                                             in_place<kType, 7>, in_place<kType, 8>};

void product_in_place(const QuantProduct& p) {
  switch (p.dtype) {
    case DType::q8_0:
      return kInPlace<DType::q8_0>[p.m - 1](p);
    case DType::q4_0:
      return kInPlace<DType::q4_0>[p.m - 1](p);
    default:
      return kInPlace<DType::q4_1>[p.m - 1](p);
  }
}

void product_packed(const QuantProduct& p) {
  switch (p.dtype) {
    case DType::q8_0:
      return packed<DType::q8_0>(p);
    case DType::q4_0:
      return packed<DType::q4_0>(p);
    default:
      return packed<DType::q4_1>(p);
  }
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
    __m128i s = fold_128(_mm256_add_epi32(_mm256_add_epi32(c[0], c[1]), _mm256_add_epi32(c[2], c[3])));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    const int sum = _mm_cvtsi128_si32(s);
    out->scale = scale;
    out->scaled_sum = scale * static_cast<float>(sum);
    out->minus_8_sums = -8 * sum;
    out->minus_128_sums = -128 * sum;
  }
}

}  // namespace
}  // namespace spillway
