// Quantised products with AVX-512 VNNI. A lane is a weight row: 16 rows' blocks are transposed as they are read, so
// that each row keeps one accumulator, in block order, and weights need no second copy in another layout.

namespace spillway {
namespace {

// 32 elements of 16 weight rows: u[g] holds elements 4g .. 4g+3 of each row, unsigned.
struct Block16 {
  __m512i u[8];
  __m512 d;
  __m512 m;  // Q4_1 only
};

constexpr int block_bytes_of(DType type) { return type == DType::q8_0 ? 34 : type == DType::q4_0 ? 18 : 20; }

// Rows at a fixed stride; four bases keep the addresses to one addition.
struct Rows16 {
  const std::byte* base[4];
  int64_t stride;
  __m512i offsets;  // of the rows, for the gather of scales

  Rows16(const std::byte* first, int64_t row_stride) : stride(row_stride) {
    for (int i = 0; i < 4; i++) base[i] = first + 4 * i * row_stride;
    offsets = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                 _mm512_set1_epi32(static_cast<int>(row_stride)));
  }
};

// 16 bytes of each row, `at` bytes from its start: out[c] holds bytes 4c .. 4c+3 of rows 0 .. 15.
inline void load_16_bytes(const Rows16& rows, int64_t at, __m512i (&out)[4]) {
  __m512i z[4];  // lane l of z[i] is row 4 * l + i
  for (int i = 0; i < 4; i++) {
    const int64_t offset = at + i * rows.stride;
    const auto lane = [&](int l) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.base[l] + offset)); };
    z[i] = _mm512_castsi128_si512(lane(0));
    z[i] = _mm512_inserti32x4(z[i], lane(1), 1);
    z[i] = _mm512_inserti32x4(z[i], lane(2), 2);
    z[i] = _mm512_inserti32x4(z[i], lane(3), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(z[0], z[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(z[0], z[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(z[2], z[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm512_unpacklo_epi64(low01, low23);
  out[1] = _mm512_unpackhi_epi64(low01, low23);
  out[2] = _mm512_unpacklo_epi64(high01, high23);
  out[3] = _mm512_unpackhi_epi64(high01, high23);
}

template <DType kType>
inline Block16 load_block(const Rows16& rows, int64_t at) {
  Block16 b;
  const __m512i scales = _mm512_i32gather_epi32(rows.offsets, rows.base[0] + at, 1);
  b.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(scales));
  b.m = kType == DType::q4_1 ? _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(scales, 16)))
                             : _mm512_setzero_ps();
  __m512i t[4];
  if constexpr (kType == DType::q8_0) {
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    load_16_bytes(rows, at + 2, t);
    for (int c = 0; c < 4; c++) b.u[c] = _mm512_xor_si512(t[c], flip);
    load_16_bytes(rows, at + 18, t);
    for (int c = 0; c < 4; c++) b.u[4 + c] = _mm512_xor_si512(t[c], flip);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    load_16_bytes(rows, at + (kType == DType::q4_1 ? 4 : 2), t);
    for (int c = 0; c < 4; c++) {
      b.u[c] = _mm512_and_si512(t[c], low);
      b.u[4 + c] = _mm512_and_si512(_mm512_srli_epi16(t[c], 4), low);
    }
  }
  return b;
}

// Adds block b of one row of activations.
template <DType kType>
inline __m512 add_block(const Block16& b, const ActBlock& x, __m512 sum) {
  const auto four = [&](int g) {
    int32_t codes;
    __builtin_memcpy(&codes, x.codes + 4 * g, sizeof codes);
    return _mm512_set1_epi32(codes);
  };
  __m512i even = kType == DType::q4_1   ? _mm512_setzero_si512()
                 : kType == DType::q4_0 ? _mm512_set1_epi32(x.minus_8_sums)
                                        : _mm512_set1_epi32(x.minus_128_sums);
  __m512i odd = _mm512_setzero_si512();
  for (int g = 0; g < 8; g += 2) {
    even = _mm512_dpbusd_epi32(even, b.u[g], four(g));
    odd = _mm512_dpbusd_epi32(odd, b.u[g + 1], four(g + 1));
  }
  const __m512 dots = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
  sum = _mm512_fmadd_ps(dots, _mm512_mul_ps(b.d, _mm512_set1_ps(x.scale)), sum);
  if constexpr (kType == DType::q4_1) sum = _mm512_fmadd_ps(b.m, _mm512_set1_ps(x.scaled_sum), sum);
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

template <DType kType, int M>
void in_place(const QuantProduct& p) {
  constexpr int kBytes = block_bytes_of(kType);
  const auto stride = static_cast<int64_t>(p.weight_stride);
  for (int64_t n = 0; n < p.rows; n += kTileRows) {
    const std::byte* tile = p.weight + n * stride;
    // Rows are read side by side, sixteen streams too short for the hardware's prefetcher: the next tile is asked for
    // front to back while this one is computed.
    const std::byte* ahead = tile + kTileRows * stride;
    const Rows16 rows(tile, stride);
    __m512 sums[M];
    for (int i = 0; i < M; i++) sums[i] = _mm512_setzero_ps();
    const ActBlock* x = p.x;
    for (int64_t b = 0; b < p.blocks; b++, x += M, ahead += kTileRows * kBytes) {
      for (int line = 0; line < kTileRows * kBytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
      const Block16 block = load_block<kType>(rows, b * kBytes);
      for (int i = 0; i < M; i++) sums[i] = add_block<kType>(block, x[i], sums[i]);
    }
    store_tile<M>(p, n, kTileRows, sums);
  }
}

template <DType kType, int M>
void packed(const QuantProduct& p) {
  __m512 sums[M];
  for (int i = 0; i < M; i++) sums[i] = _mm512_setzero_ps();
  const ActBlock* x = p.x;
  const std::byte* tile = p.weight;
  for (int64_t b = 0; b < p.blocks; b++, x += M, tile += kPackedBlockBytes) {
    Block16 block;
    for (int g = 0; g < 8; g++) block.u[g] = _mm512_loadu_si512(tile + 64 * g);
    block.d = _mm512_loadu_ps(tile + 512);
    block.m = _mm512_loadu_ps(tile + 576);
    for (int i = 0; i < M; i++) sums[i] = add_block<kType>(block, x[i], sums[i]);
  }
  store_tile<M>(p, 0, static_cast<int>(p.rows), sums);
}

template <DType kType>
void pack_rows(const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  constexpr int kBytes = block_bytes_of(kType);
  std::byte copies[kTileRows * kBytes];  // of a tile that ends the matrix: its last row is repeated
  const Rows16 whole(weight, static_cast<int64_t>(stride));
  const Rows16 copied(copies, kBytes);
  for (int64_t b = 0; b < blocks; b++, tile += kPackedBlockBytes) {
    if (rows < kTileRows) {
      for (int r = 0; r < kTileRows; r++) {
        __builtin_memcpy(copies + r * kBytes, weight + (r < rows ? r : rows - 1) * stride + b * kBytes, kBytes);
      }
    }
    const Block16 block = rows < kTileRows ? load_block<kType>(copied, 0) : load_block<kType>(whole, b * kBytes);
    for (int g = 0; g < 8; g++) _mm512_storeu_si512(tile + 64 * g, block.u[g]);
    _mm512_storeu_ps(tile + 512, block.d);
    _mm512_storeu_ps(tile + 576, block.m);
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
template <DType kType>
constexpr Product kPacked[kPackedGroup] = {packed<kType, 1>, packed<kType, 2>,  packed<kType, 3>,  packed<kType, 4>,
                                           packed<kType, 5>, packed<kType, 6>,  packed<kType, 7>,  packed<kType, 8>,
                                           packed<kType, 9>, packed<kType, 10>, packed<kType, 11>, packed<kType, 12>};

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
      return kPacked<DType::q8_0>[p.m - 1](p);
    case DType::q4_0:
      return kPacked<DType::q4_0>[p.m - 1](p);
    default:
      return kPacked<DType::q4_1>[p.m - 1](p);
  }
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
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(c0, c1));
    out->scale = scale;
    out->scaled_sum = scale * static_cast<float>(sum);
    out->minus_8_sums = -8 * sum;
    out->minus_128_sums = -128 * sum;
  }
}

}  // namespace
}  // namespace spillway
