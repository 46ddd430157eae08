// Rows in lanes, for AVX-512: a register holds four bytes, or one float, of each of 16 weight rows.

namespace spillway {
namespace {

constexpr int kRowLanes = 16;
constexpr bool kKeepsHighNibbles = true;  // sums of products have 32 bits
using Words = __m512i;
using Floats = __m512;

// Rows at a fixed stride; four bases keep the addresses to one addition.
struct Rows {
  const std::byte* base[4];
  int64_t stride;

  Rows(const std::byte* first, int64_t row_stride) : stride(row_stride) {
    for (int i = 0; i < 4; i++) base[i] = first + 4 * i * row_stride;
  }
};

// Four bytes of each of 8 rows, the first four of which are rows.base[first].
SPILLWAY_INLINE __m256i load_word_of_8(const Rows& rows, int first, int64_t at) {
  const auto row = [&](int i) {
    int32_t bits;
    __builtin_memcpy(&bits, rows.base[first + i / 4] + at + i % 4 * rows.stride, sizeof bits);
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

// Four bytes of each row, `at` bytes from its start. The gather instruction takes two to four times as long.
SPILLWAY_INLINE Words load_word(const Rows& rows, int64_t at) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(load_word_of_8(rows, 0, at)), load_word_of_8(rows, 2, at), 1);
}

// 16 bytes of each row: out[c] holds bytes 4c .. 4c+3.
SPILLWAY_INLINE void load_16_bytes(const Rows& rows, int64_t at, Words* out) {
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

// 32 bytes of each row: out[c] holds bytes 4c .. 4c+3. Fewer inserts than twice 16 bytes.
SPILLWAY_INLINE void load_32_bytes(const Rows& rows, int64_t at, Words* out) {
  __m512i mixed[2][4];  // 128-bit lanes: rows 8h .. 8h+3 of words c and c + 4, then rows 8h+4 .. 8h+7 of them
  for (int h = 0; h < 2; h++) {
    __m512i z[4];
    for (int i = 0; i < 4; i++) {
      const int64_t offset = at + i * rows.stride;
      const auto half = [&](int l) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.base[l] + offset));
      };
      z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(half(2 * h)), half(2 * h + 1), 1);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(z[0], z[1]);
    const __m512i high01 = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(z[2], z[3]);
    const __m512i high23 = _mm512_unpackhi_epi32(z[2], z[3]);
    mixed[h][0] = _mm512_unpacklo_epi64(low01, low23);
    mixed[h][1] = _mm512_unpackhi_epi64(low01, low23);
    mixed[h][2] = _mm512_unpacklo_epi64(high01, high23);
    mixed[h][3] = _mm512_unpackhi_epi64(high01, high23);
  }
  for (int c = 0; c < 4; c++) {
    out[c] = _mm512_shuffle_i32x4(mixed[0][c], mixed[1][c], 0x88);
    out[4 + c] = _mm512_shuffle_i32x4(mixed[0][c], mixed[1][c], 0xdd);
  }
}

SPILLWAY_INLINE Words splat(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
SPILLWAY_INLINE Words both(Words a, Words b) { return _mm512_and_si512(a, b); }
SPILLWAY_INLINE Words either(Words a, Words b) { return _mm512_or_si512(a, b); }
SPILLWAY_INLINE Words minus(Words a, Words b) { return _mm512_sub_epi32(a, b); }
SPILLWAY_INLINE Words shift_right(Words a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
SPILLWAY_INLINE Words shift_left(Words a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
// Byte i of each word, four times.
SPILLWAY_INLINE Words repeat_byte(Words a, int i) {
  return _mm512_shuffle_epi8(
      a, _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)),
                         _mm512_set1_epi8(static_cast<char>(i))));
}
// Bytes: a + value where flags & mask is not zero.
SPILLWAY_INLINE Words add_where(Words a, Words flags, Words mask, Words value) {
  return _mm512_mask_add_epi8(a, _mm512_test_epi8_mask(flags, mask), a, value);
}
// Bytes: the one of 16 (low then high) that each code below 16 names.
SPILLWAY_INLINE Words look_up(uint64_t low, uint64_t high, Words codes) {
  const __m128i table = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes);
}

// Halves of words as f16; words, and bytes of them, as integers.
SPILLWAY_INLINE Floats f16_low(Words a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
SPILLWAY_INLINE Floats f16_high(Words a) { return f16_low(_mm512_srli_epi32(a, 16)); }
SPILLWAY_INLINE Floats to_float(Words a) { return _mm512_cvtepi32_ps(a); }
SPILLWAY_INLINE Floats signed_byte(Words a, int i) {
  return to_float(_mm512_srai_epi32(_mm512_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * i)), 24));
}
SPILLWAY_INLINE Floats negated(Floats a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }

}  // namespace
}  // namespace spillway
