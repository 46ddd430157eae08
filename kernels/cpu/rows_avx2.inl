// Rows in lanes, for AVX2: a register holds four bytes, or one float, of each of 8 weight rows.

namespace spillway {
namespace {

constexpr int kRowLanes = 8;
constexpr bool kKeepsHighNibbles = false;  // sums of products begin with 16 bits
using Words = __m256i;
using Floats = __m256;

struct Rows {
  const std::byte* base;
  int64_t stride;

  Rows(const std::byte* first, int64_t row_stride) : base(first), stride(row_stride) {}
};

// Four bytes of each row, `at` bytes from its start. The gather instruction is slower on many.
SPILLWAY_INLINE Words load_word(const Rows& rows, int64_t at) {
  const auto row = [&](int i) {
    int32_t bits;
    __builtin_memcpy(&bits, rows.base + at + i * rows.stride, sizeof bits);
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

// 16 bytes of each row: out[c] holds bytes 4c .. 4c+3.
SPILLWAY_INLINE void load_16_bytes(const Rows& rows, int64_t at, Words* out) {
  __m256i z[4];  // row i, row i + 4
  for (int i = 0; i < 4; i++) {
    const std::byte* row = rows.base + at + i * rows.stride;
    const __m128i upper = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
    const __m128i lower = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 4 * rows.stride));
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

// 32 bytes of each row: out[c] holds bytes 4c .. 4c+3.
SPILLWAY_INLINE void load_32_bytes(const Rows& rows, int64_t at, Words* out) {
  load_16_bytes(rows, at, out);
  load_16_bytes(rows, at + 16, out + 4);
}

SPILLWAY_INLINE Words splat(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
SPILLWAY_INLINE Words both(Words a, Words b) { return _mm256_and_si256(a, b); }
SPILLWAY_INLINE Words either(Words a, Words b) { return _mm256_or_si256(a, b); }
SPILLWAY_INLINE Words minus(Words a, Words b) { return _mm256_sub_epi32(a, b); }
SPILLWAY_INLINE Words shift_right(Words a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
SPILLWAY_INLINE Words shift_left(Words a, int n) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)); }
// Byte i of each word, four times.
SPILLWAY_INLINE Words repeat_byte(Words a, int i) {
  const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  return _mm256_shuffle_epi8(a, _mm256_add_epi8(first, _mm256_set1_epi8(static_cast<char>(i))));
}
// Bytes: a + value where flags & mask, a single bit, is not zero.
SPILLWAY_INLINE Words add_where(Words a, Words flags, Words mask, Words value) {
  return _mm256_add_epi8(a, _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(flags, mask), mask), value));
}
// Bytes: the one of 16 (low then high) that each code below 16 names.
SPILLWAY_INLINE Words look_up(uint64_t low, uint64_t high, Words codes) {
  const __m128i table = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes);
}

// Halves of words as f16; words, and bytes of them, as integers.
SPILLWAY_INLINE Floats f16_low(Words a) {
  const __m256i halves = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
SPILLWAY_INLINE Floats f16_high(Words a) { return f16_low(_mm256_srli_epi32(a, 16)); }
SPILLWAY_INLINE Floats to_float(Words a) { return _mm256_cvtepi32_ps(a); }
SPILLWAY_INLINE Floats signed_byte(Words a, int i) {
  return to_float(_mm256_srai_epi32(_mm256_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * i)), 24));
}
SPILLWAY_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
SPILLWAY_INLINE Floats negated(Floats a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }

}  // namespace
}  // namespace spillway
