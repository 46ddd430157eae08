// Quantised formats as the products read them, written once over rows in lanes (rows_*.inl, included before). A format
// says how 32 elements of kRowLanes weight rows become bytes and scales, and nothing of the loops: one more format is
// one more struct here, and its line in with_format(). Layouts: kernels/blocks.h and kernels/super_blocks.h.
#include "kernels/iq4_values.h"

namespace spillway {
namespace {

// How the bytes of a format are to be read.
struct Codes {
  int most;                // largest code, where unsigned
  int offset = 0;          // weight = d * (code - offset)
  bool is_signed = false;  // weight = d * code
  bool halves = false;     // 16 elements to a scale, not 32
  bool affine = false;     // weight = d * code + m
};

// 32 elements of each row: codes[g] holds elements 4g .. 4g+3; d and m belong to all 32, or to halves.
struct RowsBlock {
  Words codes[8];
  bool sixteenfold[2] = {};  // codes[0 .. 4) and [4 .. 8) are, being high nibbles that stayed where they were
  Floats d[2];
  Floats m[2];
};

// codes[0 .. 4) are the low nibbles of raw[0 .. 4), codes[4 .. 8) the high ones.
SPILLWAY_INLINE void split_nibbles(const Words* raw, Words* codes) {
  const Words low = splat(0x0f0f0f0f);
  for (int c = 0; c < 4; c++) {
    codes[c] = both(raw[c], low);
    codes[4 + c] = both(shift_right(raw[c], 4), low);
  }
}

// As codes, or sixteen times as much where the products can bear it: then RowsBlock says so.
SPILLWAY_INLINE Words high_nibbles(Words raw) {
  return kKeepsHighNibbles ? both(raw, splat(0xf0f0f0f0)) : both(shift_right(raw, 4), splat(0x0f0f0f0f));
}

// codes[0 .. 4) are the low nibbles of raw[0 .. 4), codes[4 .. 8) the high ones; high_nibbles() says how.
SPILLWAY_INLINE void split_in_place(const Words* raw, RowsBlock* out) {
  for (int c = 0; c < 4; c++) {
    out->codes[c] = both(raw[c], splat(0x0f0f0f0f));
    out->codes[4 + c] = high_nibbles(raw[c]);
  }
  out->sixteenfold[1] = kKeepsHighNibbles;
}

// Bit i of the word becomes bit 4 of code i.
SPILLWAY_INLINE void add_fifth_bits(Words bits, Words* codes) {
  for (int pair = 0; pair < 4; pair++) {
    const Words eight = repeat_byte(bits, pair);
    codes[2 * pair] = add_where(codes[2 * pair], eight, splat(0x08040201), splat(0x10101010));
    codes[2 * pair + 1] = add_where(codes[2 * pair + 1], eight, splat(0x80402010), splat(0x10101010));
  }
}

// The word between two: the high half of the first, then the low half of the second.
SPILLWAY_INLINE Words halves_between(Words a, Words b) { return either(shift_right(a, 16), shift_left(b, 16)); }

SPILLWAY_INLINE Floats byte_of(Words a, int i) { return to_float(both(shift_right(a, 8 * i), splat(255))); }

// Each format: begin() at the start of a block, then block() for its 32s of elements in order. `at` is where the block
// starts, in bytes from the start of the rows.
struct FormatQ8_0 {
  static constexpr DType kType = DType::q8_0;
  static constexpr Codes kCodes{.most = 127, .is_signed = true};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    out->d[0] = f16_low(load_word(rows, at));
    load_32_bytes(rows, at + 2, out->codes);
  }
};

struct FormatQ4_0 {
  static constexpr DType kType = DType::q4_0;
  static constexpr Codes kCodes{.most = 15, .offset = 8};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    Words raw[4];
    out->d[0] = f16_low(load_word(rows, at));
    load_16_bytes(rows, at + 2, raw);
    split_in_place(raw, out);
  }
};

struct FormatQ4_1 {
  static constexpr DType kType = DType::q4_1;
  static constexpr Codes kCodes{.most = 15, .affine = true};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    Words raw[4];
    const Words scales = load_word(rows, at);
    out->d[0] = f16_low(scales);
    out->m[0] = f16_high(scales);
    load_16_bytes(rows, at + 4, raw);
    split_in_place(raw, out);
  }
};

struct FormatQ5_0 {
  static constexpr DType kType = DType::q5_0;
  static constexpr Codes kCodes{.most = 31, .offset = 16};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    Words raw[4], head[4];
    load_16_bytes(rows, at, head);
    out->d[0] = f16_low(head[0]);
    load_16_bytes(rows, at + 6, raw);
    split_nibbles(raw, out->codes);
    add_fifth_bits(halves_between(head[0], head[1]), out->codes);
  }
};

struct FormatQ5_1 {
  static constexpr DType kType = DType::q5_1;
  static constexpr Codes kCodes{.most = 31, .affine = true};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    Words raw[4], head[4];
    load_16_bytes(rows, at, head);
    out->d[0] = f16_low(head[0]);
    out->m[0] = f16_high(head[0]);
    load_16_bytes(rows, at + 8, raw);
    split_nibbles(raw, out->codes);
    add_fifth_bits(head[1], out->codes);
  }
};

struct FormatIQ4_NL {
  static constexpr DType kType = DType::iq4_nl;
  static constexpr Codes kCodes{.most = 127, .is_signed = true};
  SPILLWAY_INLINE void begin(const Rows&, int64_t) {}
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int, RowsBlock* out) {
    Words raw[4];
    out->d[0] = f16_low(load_word(rows, at));
    load_16_bytes(rows, at + 2, raw);
    split_nibbles(raw, out->codes);
    for (Words& codes : out->codes) codes = look_up(kIq4Low, kIq4High, codes);
  }
};

struct FormatQ2_K {
  static constexpr DType kType = DType::q2_k;
  static constexpr Codes kCodes{.most = 3, .halves = true, .affine = true};
  Floats d[16];
  Floats m[16];
  Words raw[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) {
    Words scales[4];
    load_16_bytes(rows, at, scales);
    const Words both_d = load_word(rows, at + 80);
    const Floats scale = f16_low(both_d);
    const Floats offset = negated(f16_high(both_d));
    for (int s = 0; s < 16; s++) {
      const Words byte = shift_right(scales[s / 4], s % 4 * 8);
      d[s] = mul(scale, to_float(both(byte, splat(15))));
      m[s] = mul(offset, to_float(both(shift_right(byte, 4), splat(15))));
    }
  }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    if (b % 4 == 0) load_32_bytes(rows, at + 16 + 8 * b, raw);
    for (int g = 0; g < 8; g++) out->codes[g] = both(shift_right(raw[g], b % 4 * 2), splat(0x03030303));
    for (int half = 0; half < 2; half++) {
      out->d[half] = d[2 * b + half];
      out->m[half] = m[2 * b + half];
    }
  }
};

struct FormatQ3_K {
  static constexpr DType kType = DType::q3_k;
  static constexpr Codes kCodes{.most = 7, .offset = 4, .halves = true};
  Floats d[16];
  Words third[8];
  Words raw[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) {
    load_32_bytes(rows, at, third);
    Words end[4];  // the block's last 16 bytes: two of codes, the scales, d
    load_16_bytes(rows, at + 94, end);
    const Words low[2] = {halves_between(end[0], end[1]), halves_between(end[1], end[2])};
    const Words high = halves_between(end[2], end[3]);
    const Floats scale = f16_high(end[3]);
    for (int i = 0; i < 4; i++) {
      const Words nibbles = both(shift_right(low[i % 2], i / 2 * 4), splat(0x0f0f0f0f));
      const Words four = either(nibbles, shift_left(both(shift_right(high, 2 * i), splat(0x03030303)), 4));
      for (int s = 0; s < 4; s++) {
        const Words six = both(shift_right(four, 8 * s), splat(63));
        d[4 * i + s] = mul(scale, to_float(minus(six, splat(32))));
      }
    }
  }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    if (b % 4 == 0) load_32_bytes(rows, at + 32 + 8 * b, raw);
    const Words bit = splat(0x01010101u << b);
    for (int g = 0; g < 8; g++) {
      const Words two = both(shift_right(raw[g], b % 4 * 2), splat(0x03030303));
      out->codes[g] = add_where(two, third[g], bit, splat(0x04040404));
    }
    for (int half = 0; half < 2; half++) out->d[half] = d[2 * b + half];
  }
};

// Scales and offsets of Q4_K and Q5_K.
struct SixBitScales {
  Floats d[8];
  Floats m[8];

  SPILLWAY_INLINE void load(const Rows& rows, int64_t at) {
    Words head[4];
    load_16_bytes(rows, at, head);
    const Floats scale = f16_low(head[0]);
    const Floats offset = negated(f16_high(head[0]));
    const Words a = head[1], b = head[2], c = head[3];
    const Words six = splat(0x3f3f3f3f);
    const Words four = splat(0x0f0f0f0f);
    const Words high = splat(0x30303030);
    const Words scales[2] = {both(a, six), either(both(c, four), both(shift_right(a, 2), high))};
    const Words offsets[2] = {both(b, six), either(both(shift_right(c, 4), four), both(shift_right(b, 2), high))};
    for (int s = 0; s < 8; s++) {
      d[s] = mul(scale, byte_of(scales[s / 4], s % 4));
      m[s] = mul(offset, byte_of(offsets[s / 4], s % 4));
    }
  }
};

struct FormatQ4_K {
  static constexpr DType kType = DType::q4_k;
  static constexpr Codes kCodes{.most = 15, .affine = true};
  SixBitScales scales;
  Words raw[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) { scales.load(rows, at); }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    if (b % 2 == 0) load_32_bytes(rows, at + 16 + 16 * b, raw);
    for (bool& sixteenfold : out->sixteenfold) sixteenfold = b % 2 == 1 && kKeepsHighNibbles;
    for (int g = 0; g < 8; g++) out->codes[g] = b % 2 == 0 ? both(raw[g], splat(0x0f0f0f0f)) : high_nibbles(raw[g]);
    out->d[0] = scales.d[b];
    out->m[0] = scales.m[b];
  }
};

struct FormatQ5_K {
  static constexpr DType kType = DType::q5_k;
  static constexpr Codes kCodes{.most = 31, .affine = true};
  SixBitScales scales;
  Words fifth[8];
  Words raw[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) {
    scales.load(rows, at);
    load_32_bytes(rows, at + 16, fifth);
  }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    if (b % 2 == 0) load_32_bytes(rows, at + 48 + 16 * b, raw);
    const Words bit = splat(0x01010101u << b);
    for (int g = 0; g < 8; g++) {
      const Words four = both(shift_right(raw[g], b % 2 * 4), splat(0x0f0f0f0f));
      out->codes[g] = add_where(four, fifth[g], bit, splat(0x10101010));
    }
    out->d[0] = scales.d[b];
    out->m[0] = scales.m[b];
  }
};

struct FormatQ6_K {
  static constexpr DType kType = DType::q6_k;
  static constexpr Codes kCodes{.most = 63, .offset = 32, .halves = true};
  Floats d[16];
  Words low[16];
  Words high[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) {
    Words scales[4];
    load_16_bytes(rows, at + 192, scales);
    const Floats scale = f16_high(load_word(rows, at + 206));  // d ends the block
    for (int s = 0; s < 16; s++) d[s] = mul(scale, signed_byte(scales[s / 4], s % 4));
  }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    const int j = b % 4;
    if (j == 0) {
      load_32_bytes(rows, at + 16 * b, low);
      load_32_bytes(rows, at + 16 * b + 32, low + 8);
      load_32_bytes(rows, at + 128 + 8 * b, high);
    }
    for (int g = 0; g < 8; g++) {
      const Words four = both(shift_right(low[8 * (j % 2) + g], j / 2 * 4), splat(0x0f0f0f0f));
      const Words at_4 = j < 2 ? shift_left(high[g], 4 - 2 * j) : shift_right(high[g], 2 * j - 4);
      out->codes[g] = either(four, both(at_4, splat(0x30303030)));
    }
    for (int half = 0; half < 2; half++) out->d[half] = d[2 * b + half];
  }
};

struct FormatIQ4_XS {
  static constexpr DType kType = DType::iq4_xs;
  static constexpr Codes kCodes{.most = 127, .is_signed = true};
  Floats d[8];

  SPILLWAY_INLINE void begin(const Rows& rows, int64_t at) {
    Words head[4];
    load_16_bytes(rows, at, head);
    const Words first = head[0];  // d, and the high bits of the scales
    const Words low = head[1];
    const Floats scale = f16_low(first);
    for (int s = 0; s < 8; s++) {
      const Words four = both(shift_right(low, 4 * s), splat(15));
      const Words six = either(four, shift_left(both(shift_right(first, 16 + 2 * s), splat(3)), 4));
      d[s] = mul(scale, to_float(minus(six, splat(32))));
    }
  }
  SPILLWAY_INLINE void block(const Rows& rows, int64_t at, int b, RowsBlock* out) {
    Words raw[4];
    load_16_bytes(rows, at + 8 + 16 * b, raw);
    split_nibbles(raw, out->codes);
    for (Words& codes : out->codes) codes = look_up(kIq4Low, kIq4High, codes);
    out->d[0] = d[b];
  }
};

// scale, and the sums of an activation block's halves, in the forms that the products want.
SPILLWAY_INLINE void set_sums(float scale, int first, int second, ActBlock* out) {
  const int sum = first + second;
  out->scale = scale;
  out->scaled_sum = scale * static_cast<float>(sum);
  out->scaled_halves[0] = scale * static_cast<float>(first);
  out->scaled_halves[1] = scale * static_cast<float>(second);
  out->minus_8_sums = -8 * sum;
  out->minus_128_sums = -128 * sum;
  out->minus_4_halves[0] = -4 * first;
  out->minus_4_halves[1] = -4 * second;
}

template <typename T>
struct Of {
  using Format = T;
};

// Calls f with Of<the type's format>.
template <typename F>
inline void with_format(DType type, F f) {
  switch (type) {
    case DType::q8_0:
      return f(Of<FormatQ8_0>{});
    case DType::q4_0:
      return f(Of<FormatQ4_0>{});
    case DType::q4_1:
      return f(Of<FormatQ4_1>{});
    case DType::q5_0:
      return f(Of<FormatQ5_0>{});
    case DType::q5_1:
      return f(Of<FormatQ5_1>{});
    case DType::iq4_nl:
      return f(Of<FormatIQ4_NL>{});
    case DType::q2_k:
      return f(Of<FormatQ2_K>{});
    case DType::q3_k:
      return f(Of<FormatQ3_K>{});
    case DType::q4_k:
      return f(Of<FormatQ4_K>{});
    case DType::q5_k:
      return f(Of<FormatQ5_K>{});
    case DType::q6_k:
      return f(Of<FormatQ6_K>{});
    case DType::iq4_xs:
      return f(Of<FormatIQ4_XS>{});
    default:
      __builtin_unreachable();
  }
}

template <typename Format>
constexpr int kFormatBytes = info(Format::kType).block_bytes;
template <typename Format>
constexpr int kFormatBlocks = info(Format::kType).block_elements / 32;

}  // namespace
}  // namespace spillway
