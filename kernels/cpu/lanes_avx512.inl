// Lanes: 16 floats in one register of AVX-512.
#include <immintrin.h>

namespace spillway {
namespace {

constexpr const char* kKernelsName = "AVX-512";
// Register tiles: 32 registers.
constexpr int kFloatTileM = 6;
constexpr int kFloatTileN = 4;
constexpr int kBroadcastRows = 6;
constexpr int kBroadcastCols = 4;
constexpr int kScoreHeads = 8;

using Lanes = __m512;

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }

inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }

inline Lanes lanes_zero() { return _mm512_setzero_ps(); }
inline Lanes lanes_set(float x) { return _mm512_set1_ps(x); }
inline Lanes load_f32(const void* p) { return _mm512_loadu_ps(p); }
inline Lanes load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline Lanes widen_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
inline Lanes load_bf16(const void* p) { return widen_bf16(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
// 16 codes of 2, 4 or 8 bits, packed little-endian.
template <int kBits>
inline Lanes load_codes(const std::byte* p) {
  if constexpr (kBits == 2) {
    int32_t all;
    __builtin_memcpy(&all, p, sizeof all);
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i codes = _mm512_srlv_epi32(_mm512_set1_epi32(all), places);
    return _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(3)));
  } else {
    __m128i bytes;
    if constexpr (kBits == 4) {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
      bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, mask), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
    } else {
      bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
}
// A word of 32 bits to each lane, and the codes or halves in them: the i-th of each word.
using WordLanes = __m512i;
inline WordLanes load_words(const std::byte* p) { return _mm512_loadu_si512(p); }
template <int kBits>
inline Lanes element_of(WordLanes words, int i) {
  const __m512i moved = _mm512_srli_epi32(words, static_cast<unsigned>(i * kBits));
  if constexpr (kBits == 4) {  // looked up by the low four bits of each lane
    return _mm512_permutexvar_ps(moved, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (kBits == 8) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(255)));
  } else {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(moved));
  }
}
// The first n lanes; the others are zero, and their memory is not touched.
inline Lanes load_f32_part(const void* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline Lanes load_f16_part(const void* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline Lanes load_bf16_part(const void* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline void store_f32(float* p, Lanes a) { _mm512_storeu_ps(p, a); }
inline void store_f32_part(float* p, Lanes a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
inline void store_f16(void* p, Lanes a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_f16_part(void* p, Lanes a, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
// a * b + c
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
// c - a * b
inline Lanes fnma(Lanes a, Lanes b, Lanes c) { return _mm512_fnmadd_ps(a, b, c); }
inline float fma1(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
// The second operand where either is NaN.
inline Lanes max(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes min(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
inline Lanes round_even(Lanes a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// Lanes from n on become `other`.
inline Lanes keep_first(Lanes a, int n, float other) {
  return _mm512_mask_blend_ps(first_lanes(n), lanes_set(other), a);
}
using LaneMask = __mmask16;
inline LaneMask not_below(Lanes a, float limit) { return _mm512_cmp_ps_mask(a, lanes_set(limit), _CMP_NLT_UQ); }
// Zero where the mask is not set.
inline Lanes where(LaneMask mask, Lanes a) { return _mm512_maskz_mov_ps(mask, a); }
// a * 2^n for whole n in [-126, 127] where the mask is set, else zero.
inline Lanes times_power_of_2(Lanes a, Lanes n, LaneMask mask) { return _mm512_maskz_scalef_ps(mask, a, n); }
inline float first(Lanes a) { return _mm512_cvtss_f32(a); }
inline __m256 upper(Lanes a) { return _mm512_extractf32x8_ps(a, 1); }
inline float sum_of(Lanes a) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a), upper(a));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
// Lane i of the result is sum_of(a[i]), to the bit: the same folds, of all sixteen at once.
inline Lanes sums_of(const Lanes (&a)[kLanes]) {
  Lanes by_8[8];
  Lanes by_4[4];
  Lanes by_2[2];
  for (int i = 0; i < 8; i++) {
    by_8[i] =
        add(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x44), _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xee));
  }
  for (int i = 0; i < 4; i++) {
    by_4[i] = add(_mm512_shuffle_f32x4(by_8[2 * i], by_8[2 * i + 1], 0x88),
                  _mm512_shuffle_f32x4(by_8[2 * i], by_8[2 * i + 1], 0xdd));
  }
  for (int i = 0; i < 2; i++) {
    by_2[i] = add(_mm512_shuffle_ps(by_4[2 * i], by_4[2 * i + 1], 0x44),
                  _mm512_shuffle_ps(by_4[2 * i], by_4[2 * i + 1], 0xee));
  }
  const Lanes all = add(_mm512_shuffle_ps(by_2[0], by_2[1], 0x88), _mm512_shuffle_ps(by_2[0], by_2[1], 0xdd));
  // Lane 4 * i + j of `all` belongs to a[4 * j + i].
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_ps(order, all);
}
inline float max_of(Lanes a) {
  const __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(a), upper(a));
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}
// 16 rows of 16 f16, `stride` bytes apart -> out[c] = element c of every row. Transposed as halves, then widened.
inline void transpose_f16(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  __m512i z[8];  // 128-bit lanes: first half of row i, of row i + 8, second half of row i, of row i + 8
  for (int i = 0; i < 8; i++) {
    const auto* upper_row = reinterpret_cast<const __m128i*>(rows + i * stride);
    const auto* lower_row = reinterpret_cast<const __m128i*>(rows + (i + 8) * stride);
    z[i] = _mm512_castsi128_si512(_mm_loadu_si128(upper_row));
    z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128(lower_row), 1);
    z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128(upper_row + 1), 2);
    z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128(lower_row + 1), 3);
  }
  __m512i pairs[8];
  for (int i = 0; i < 4; i++) {
    pairs[2 * i] = _mm512_unpacklo_epi16(z[2 * i], z[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_epi16(z[2 * i], z[2 * i + 1]);
  }
  __m512i fours[8];
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      fours[4 * i + 2 * j] = _mm512_unpacklo_epi32(pairs[4 * i + j], pairs[4 * i + 2 + j]);
      fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi32(pairs[4 * i + j], pairs[4 * i + 2 + j]);
    }
  }
  for (int c = 0; c < 4; c++) {
    const __m512i even = _mm512_unpacklo_epi64(fours[c], fours[4 + c]);
    const __m512i odd = _mm512_unpackhi_epi64(fours[c], fours[4 + c]);
    out[2 * c] = _mm512_cvtph_ps(_mm512_castsi512_si256(even));
    out[2 * c + 1] = _mm512_cvtph_ps(_mm512_castsi512_si256(odd));
    out[2 * c + 8] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(even, 1));
    out[2 * c + 9] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(odd, 1));
  }
}
// The same of f32: within each 128 bits four rows, then the 128-bit lanes.
inline void transpose_f32(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  __m512 fours[16];  // 4 * i + c, 128-bit lane l: element 4 * l + c of rows 4 * i to 4 * i + 3
  for (int i = 0; i < 4; i++, rows += 4 * stride) {
    const Lanes a = load_f32(rows), b = load_f32(rows + stride);
    const Lanes c = load_f32(rows + 2 * stride), d = load_f32(rows + 3 * stride);
    const __m512 ab = _mm512_unpacklo_ps(a, b), cd = _mm512_unpacklo_ps(c, d);
    const __m512 more_ab = _mm512_unpackhi_ps(a, b), more_cd = _mm512_unpackhi_ps(c, d);
    fours[4 * i] = _mm512_shuffle_ps(ab, cd, 0x44);
    fours[4 * i + 1] = _mm512_shuffle_ps(ab, cd, 0xee);
    fours[4 * i + 2] = _mm512_shuffle_ps(more_ab, more_cd, 0x44);
    fours[4 * i + 3] = _mm512_shuffle_ps(more_ab, more_cd, 0xee);
  }
  for (int c = 0; c < 4; c++) {
    const __m512 low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x44);
    const __m512 high = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xee);
    const __m512 more_low = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x44);
    const __m512 more_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xee);
    out[c] = _mm512_shuffle_f32x4(low, more_low, 0x88);
    out[4 + c] = _mm512_shuffle_f32x4(low, more_low, 0xdd);
    out[8 + c] = _mm512_shuffle_f32x4(high, more_high, 0x88);
    out[12 + c] = _mm512_shuffle_f32x4(high, more_high, 0xdd);
  }
}

}  // namespace
}  // namespace spillway
