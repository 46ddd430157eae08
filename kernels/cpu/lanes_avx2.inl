// Lanes: 16 floats in two registers of AVX2, so that sums run in the order of AVX-512.
#include <immintrin.h>

namespace spillway {
namespace {

constexpr const char* kKernelsName = "AVX2";
// Register tiles: 16 registers, two to a Lanes.
constexpr int kFloatTileM = 2;
constexpr int kFloatTileN = 2;
constexpr int kBroadcastRows = 6;
constexpr int kBroadcastCols = 1;
constexpr int kScoreHeads = 4;

struct Lanes {
  __m256 low;
  __m256 high;
};

inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }

inline Lanes lanes_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes lanes_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes load_f32(const void* p) {
  const auto* f = static_cast<const float*>(p);
  return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}
inline Lanes load_f16(const void* p) {
  const auto* h = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
inline __m256 widen_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
inline Lanes load_bf16(const void* p) {
  const auto* h = static_cast<const __m128i*>(p);
  return {widen_bf16(_mm_loadu_si128(h)), widen_bf16(_mm_loadu_si128(h + 1))};
}
// 16 codes of 2, 4 or 8 bits, packed little-endian.
template <int kBits>
inline Lanes load_codes(const std::byte* p) {
  if constexpr (kBits == 2) {
    int32_t all;
    __builtin_memcpy(&all, p, sizeof all);
    const __m256i codes = _mm256_set1_epi32(all), mask = _mm256_set1_epi32(3);
    const __m256i low = _mm256_srlv_epi32(codes, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i high = _mm256_srlv_epi32(codes, _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30));
    return {_mm256_cvtepi32_ps(_mm256_and_si256(low, mask)), _mm256_cvtepi32_ps(_mm256_and_si256(high, mask))};
  } else {
    __m128i bytes;
    if constexpr (kBits == 4) {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
      bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, mask), _mm_and_si128(_mm_srli_epi16(pairs, 4), mask));
    } else {
      bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }
}
// A word of 32 bits to each lane, and the codes or halves in them: the i-th of each word.
struct WordLanes {
  __m256i low;
  __m256i high;
};
inline WordLanes load_words(const std::byte* p) {
  const auto* words = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
template <int kBits>
inline Lanes element_of(const WordLanes& words, int i) {
  const __m256i mask = _mm256_set1_epi32((1 << kBits) - 1);
  const __m256i low = _mm256_and_si256(_mm256_srli_epi32(words.low, i * kBits), mask);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi32(words.high, i * kBits), mask);
  if constexpr (kBits == 16) {
    // Packing goes by 128 bits: the quarters 0, 2, 1, 3.
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  } else {
    return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
  }
}
// The first n lanes; the others are zero, and their memory is not touched.
inline Lanes load_f32_part(const void* p, int n) {
  float f[kLanes] = {};
  __builtin_memcpy(f, p, 4 * static_cast<size_t>(n));
  return load_f32(f);
}
inline Lanes load_f16_part(const void* p, int n) {
  uint16_t h[kLanes] = {};
  __builtin_memcpy(h, p, 2 * static_cast<size_t>(n));
  return load_f16(h);
}
inline Lanes load_bf16_part(const void* p, int n) {
  uint16_t h[kLanes] = {};
  __builtin_memcpy(h, p, 2 * static_cast<size_t>(n));
  return load_bf16(h);
}
inline void store_f32(float* p, const Lanes& a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline void store_f32_part(float* p, const Lanes& a, int n) {
  float f[kLanes];
  store_f32(f, a);
  __builtin_memcpy(p, f, 4 * static_cast<size_t>(n));
}
inline void store_f16(void* p, const Lanes& a) {
  auto* h = static_cast<__m128i*>(p);
  _mm_storeu_si128(h, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(h + 1, _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_f16_part(void* p, const Lanes& a, int n) {
  uint16_t h[kLanes];
  store_f16(h, a);
  __builtin_memcpy(p, h, 2 * static_cast<size_t>(n));
}

inline Lanes add(const Lanes& a, const Lanes& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Lanes sub(const Lanes& a, const Lanes& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Lanes mul(const Lanes& a, const Lanes& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Lanes div(const Lanes& a, const Lanes& b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// a * b + c
inline Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// c - a * b
inline Lanes fnma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
inline float fma1(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
// The second operand where either is NaN.
inline Lanes max(const Lanes& a, const Lanes& b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Lanes min(const Lanes& a, const Lanes& b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Lanes round_even(const Lanes& a) {
  return {_mm256_round_ps(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// Lanes from n on become `other`.
inline Lanes keep_first(const Lanes& a, int n, float other) {
  float f[kLanes];
  store_f32(f, lanes_set(other));
  store_f32_part(f, a, n);
  return load_f32(f);
}
using LaneMask = Lanes;
inline LaneMask not_below(const Lanes& a, float limit) {
  const __m256 l = _mm256_set1_ps(limit);
  return {_mm256_cmp_ps(a.low, l, _CMP_NLT_UQ), _mm256_cmp_ps(a.high, l, _CMP_NLT_UQ)};
}
// Zero where the mask is not set.
inline Lanes where(const LaneMask& mask, const Lanes& a) {
  return {_mm256_and_ps(mask.low, a.low), _mm256_and_ps(mask.high, a.high)};
}
inline __m256 power_of_2(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
// a * 2^n for whole n in [-126, 127] where the mask is set, else zero.
inline Lanes times_power_of_2(const Lanes& a, const Lanes& n, const LaneMask& mask) {
  return {_mm256_and_ps(mask.low, _mm256_mul_ps(a.low, power_of_2(n.low))),
          _mm256_and_ps(mask.high, _mm256_mul_ps(a.high, power_of_2(n.high)))};
}
inline float first(const Lanes& a) { return _mm256_cvtss_f32(a.low); }
inline float sum_of(const Lanes& a) {
  const __m256 s8 = _mm256_add_ps(a.low, a.high);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
// Lane i of the result is sum_of(a[i]), to the bit: the same folds, of eight at once.
inline __m256 sums_of_8(const Lanes* a) {
  __m256 by_4[4];  // the folds by 8 and by 4 of a[i], then of a[i + 4]
  for (int i = 0; i < 4; i++) {
    const __m256 x = _mm256_add_ps(a[i].low, a[i].high);
    const __m256 y = _mm256_add_ps(a[i + 4].low, a[i + 4].high);
    by_4[i] = _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
  }
  __m256 by_2[2];
  for (int i = 0; i < 2; i++) {
    by_2[i] = _mm256_add_ps(_mm256_shuffle_ps(by_4[2 * i], by_4[2 * i + 1], 0x44),
                            _mm256_shuffle_ps(by_4[2 * i], by_4[2 * i + 1], 0xee));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(by_2[0], by_2[1], 0x88), _mm256_shuffle_ps(by_2[0], by_2[1], 0xdd));
}
inline Lanes sums_of(const Lanes (&a)[kLanes]) { return {sums_of_8(a), sums_of_8(a + 8)}; }
inline float max_of(const Lanes& a) {
  const __m256 m8 = _mm256_max_ps(a.low, a.high);
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}

// out[c] = element c of 16 rows, for 8 elements.
inline void transpose_8_f16(const std::byte* rows, int64_t stride, Lanes* out) {
  __m256i z[8];  // row i, row i + 8
  for (int i = 0; i < 8; i++) {
    const auto* upper_row = reinterpret_cast<const __m128i*>(rows + i * stride);
    const auto* lower_row = reinterpret_cast<const __m128i*>(rows + (i + 8) * stride);
    z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(upper_row)), _mm_loadu_si128(lower_row), 1);
  }
  __m256i pairs[8];
  for (int i = 0; i < 4; i++) {
    pairs[2 * i] = _mm256_unpacklo_epi16(z[2 * i], z[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi16(z[2 * i], z[2 * i + 1]);
  }
  __m256i fours[8];
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      fours[4 * i + 2 * j] = _mm256_unpacklo_epi32(pairs[4 * i + j], pairs[4 * i + 2 + j]);
      fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi32(pairs[4 * i + j], pairs[4 * i + 2 + j]);
    }
  }
  const auto widened = [](__m256i h) {
    return Lanes{_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
  };
  for (int c = 0; c < 4; c++) {
    out[2 * c] = widened(_mm256_unpacklo_epi64(fours[c], fours[4 + c]));
    out[2 * c + 1] = widened(_mm256_unpackhi_epi64(fours[c], fours[4 + c]));
  }
}
// 16 rows of 16 f16, `stride` bytes apart -> out[c] = element c of every row. Transposed as halves, then widened.
inline void transpose_f16(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  transpose_8_f16(rows, stride, out);
  transpose_8_f16(rows + 16, stride, out + 8);
}
// out[c] = element c of 8 rows, for 8 elements of f32: within each 128 bits four rows, then the halves.
inline void transpose_8_f32(const std::byte* rows, int64_t stride, __m256 (&out)[8]) {
  __m256 fours[8];  // 4 * i + c, 128-bit half h: element 4 * h + c of rows 4 * i to 4 * i + 3
  for (int i = 0; i < 2; i++, rows += 4 * stride) {
    const auto row = [&](int j) { return _mm256_loadu_ps(reinterpret_cast<const float*>(rows + j * stride)); };
    const __m256 ab = _mm256_unpacklo_ps(row(0), row(1)), cd = _mm256_unpacklo_ps(row(2), row(3));
    const __m256 more_ab = _mm256_unpackhi_ps(row(0), row(1)), more_cd = _mm256_unpackhi_ps(row(2), row(3));
    fours[4 * i] = _mm256_shuffle_ps(ab, cd, 0x44);
    fours[4 * i + 1] = _mm256_shuffle_ps(ab, cd, 0xee);
    fours[4 * i + 2] = _mm256_shuffle_ps(more_ab, more_cd, 0x44);
    fours[4 * i + 3] = _mm256_shuffle_ps(more_ab, more_cd, 0xee);
  }
  for (int c = 0; c < 4; c++) {
    out[c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20);
    out[4 + c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31);
  }
}
// The same as transpose_f16, of f32.
inline void transpose_f32(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  for (int first = 0; first < kLanes; first += 8) {
    __m256 low[8], high[8];
    transpose_8_f32(rows + 4 * first, stride, low);
    transpose_8_f32(rows + 8 * stride + 4 * first, stride, high);
    for (int c = 0; c < 8; c++) out[first + c] = {low[c], high[c]};
  }
}

}  // namespace
}  // namespace spillway
