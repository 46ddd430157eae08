// Rows in lanes, as plain arrays: four bytes, or one float, of each of 16 weight rows.

namespace spillway {
namespace {

constexpr int kRowLanes = kTileRows;
constexpr bool kKeepsHighNibbles = false;
struct Words {
  uint32_t v[kRowLanes];
};
using Floats = Lanes;

struct Rows {
  const std::byte* base;
  int64_t stride;

  Rows(const std::byte* first, int64_t row_stride) : base(first), stride(row_stride) {}
};

template <typename F>
inline Words each_word(F f) {
  Words r;
  for (int i = 0; i < kRowLanes; i++) r.v[i] = f(i);
  return r;
}
// f(byte of a, byte of b) for all bytes.
template <typename F>
inline Words each_byte(const Words& a, const Words& b, F f) {
  return each_word([&](int i) {
    uint32_t word = 0;
    for (int shift = 0; shift < 32; shift += 8)
      word |= (f(a.v[i] >> shift & 255, b.v[i] >> shift & 255) & 255) << shift;
    return word;
  });
}

// Four bytes of each row, `at` bytes from its start.
inline Words load_word(const Rows& rows, int64_t at) {
  return each_word([&](int i) {
    uint32_t word;
    __builtin_memcpy(&word, rows.base + at + i * rows.stride, sizeof word);
    return word;
  });
}

// 16 bytes of each row: out[c] holds bytes 4c .. 4c+3.
inline void load_16_bytes(const Rows& rows, int64_t at, Words* out) {
  for (int c = 0; c < 4; c++) out[c] = load_word(rows, at + 4 * c);
}

// 32 bytes of each row: out[c] holds bytes 4c .. 4c+3.
SPILLWAY_INLINE void load_32_bytes(const Rows& rows, int64_t at, Words* out) {
  load_16_bytes(rows, at, out);
  load_16_bytes(rows, at + 16, out + 4);
}

inline Words splat(uint32_t word) {
  return each_word([=](int) { return word; });
}
inline Words both(const Words& a, const Words& b) {
  return each_word([&](int i) { return a.v[i] & b.v[i]; });
}
inline Words either(const Words& a, const Words& b) {
  return each_word([&](int i) { return a.v[i] | b.v[i]; });
}
inline Words minus(const Words& a, const Words& b) {
  return each_word([&](int i) { return a.v[i] - b.v[i]; });
}
inline Words shift_right(const Words& a, int n) {
  return each_word([&](int i) { return a.v[i] >> n; });
}
inline Words shift_left(const Words& a, int n) {
  return each_word([&](int i) { return a.v[i] << n; });
}
// Byte i of each word, four times.
inline Words repeat_byte(const Words& a, int byte) {
  return each_word([&](int i) { return (a.v[i] >> (8 * byte) & 255) * 0x01010101u; });
}
// Bytes: a + value where flags & mask is not zero.
inline Words add_where(const Words& a, const Words& flags, const Words& mask, const Words& value) {
  const Words set = each_byte(flags, mask, [](uint32_t f, uint32_t m) { return (f & m) != 0 ? 255u : 0u; });
  return each_byte(a, both(set, value), [](uint32_t x, uint32_t y) { return x + y; });
}
// Bytes: the one of 16 (low then high) that each code below 16 names.
inline Words look_up(uint64_t low, uint64_t high, const Words& codes) {
  return each_byte(codes, codes, [=](uint32_t code, uint32_t) {
    return static_cast<uint32_t>((code < 8 ? low : high) >> (code % 8 * 8));
  });
}

// Halves of words as f16; words, and bytes of them, as integers.
inline Floats f16_low(const Words& a) {
  return each([&](int i) { return half_to_float(static_cast<uint16_t>(a.v[i])); });
}
inline Floats f16_high(const Words& a) { return f16_low(shift_right(a, 16)); }
inline Floats to_float(const Words& a) {
  return each([&](int i) { return static_cast<float>(static_cast<int32_t>(a.v[i])); });
}
inline Floats signed_byte(const Words& a, int byte) {
  return each([&](int i) { return static_cast<float>(static_cast<int8_t>(a.v[i] >> (8 * byte))); });
}
inline Floats negated(const Floats& a) {
  return each([&](int i) { return -a.v[i]; });
}

}  // namespace
}  // namespace spillway
