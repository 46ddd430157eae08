// Rows in lanes, for AVX-512: a register holds four bytes, or one float, of each of 16 weight rows.

namespace spillway {
namespace {

constexpr int kRowLanes = 16;
using Words = __m512i;
using Floats = __m512;

// Rows at a fixed stride; four bases keep the addresses to one addition.
struct Rows {
  const std::byte* base[4];
  int64_t stride;
  __m512i offsets;  // of the rows, for gathers

  Rows(const std::byte* first, int64_t row_stride) : stride(row_stride) {
    for (int i = 0; i < 4; i++) base[i] = first + 4 * i * row_stride;
    offsets = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                 _mm512_set1_epi32(static_cast<int>(row_stride)));
  }
};

// Four bytes of each row, `at` bytes from its start.
inline Words load_word(const Rows& rows, int64_t at) {
  return _mm512_i32gather_epi32(rows.offsets, rows.base[0] + at, 1);
}

// 16 bytes of each row: out[c] holds bytes 4c .. 4c+3.
inline void load_16_bytes(const Rows& rows, int64_t at, Words* out) {
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

inline Words splat(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
inline Words both(Words a, Words b) { return _mm512_and_si512(a, b); }
inline Words either(Words a, Words b) { return _mm512_or_si512(a, b); }
inline Words minus(Words a, Words b) { return _mm512_sub_epi32(a, b); }
inline Words shift_right(Words a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
inline Words shift_left(Words a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
// Byte i of each word, four times.
inline Words repeat_byte(Words a, int i) {
  return _mm512_shuffle_epi8(
      a, _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)),
                         _mm512_set1_epi8(static_cast<char>(i))));
}
// Bytes: a + value where flags & mask is not zero.
inline Words add_where(Words a, Words flags, Words mask, Words value) {
  return _mm512_mask_add_epi8(a, _mm512_test_epi8_mask(flags, mask), a, value);
}
// Bytes: the one of 16 (low then high) that each code below 16 names.
inline Words look_up(uint64_t low, uint64_t high, Words codes) {
  const __m128i table = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes);
}

// Halves of words as f16; words, and bytes of them, as integers.
inline Floats f16_low(Words a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
inline Floats f16_high(Words a) { return f16_low(_mm512_srli_epi32(a, 16)); }
inline Floats to_float(Words a) { return _mm512_cvtepi32_ps(a); }
inline Floats signed_byte(Words a, int i) {
  return to_float(_mm512_srai_epi32(_mm512_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * i)), 24));
}
inline Floats negated(Floats a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }

}  // namespace
}  // namespace spillway
