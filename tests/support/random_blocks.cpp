#include "tests/support/random_blocks.h"

#include <bit>
#include <cstring>

namespace spillway {
namespace {

// Root mean squares of what the blocks draw.
constexpr double kUniformRms = 0.57735026918962576;  // of the interval (-1, 1): 1 / sqrt(3)
constexpr double kNibbleRms = 4.6368092477478520;    // of 0..15 less 8: sqrt(21.5)
constexpr double kCentredRms = 4.6097722286464435;   // of 0..15 less 7.5: sqrt(21.25)
constexpr double kByteRms = 73.900383850154797;      // of -128..127: sqrt(5461.25), a hair less without -128
constexpr double kScaleRms = 1.1268;                 // of jittered scales: uniform in [1, 1.25)

// A block's scale: `base` with the low bits of its mantissa drawn, which makes it up to a quarter larger, and a random
// sign, which takes away the mean that the asymmetric range of nibbles would otherwise give every row alike.
uint16_t jitter(uint16_t base, uint64_t bits) {
  return static_cast<uint16_t>((base + (bits & 0xff)) | (bits & 0x8000));
}

void put_half(std::byte* at, uint16_t value) { std::memcpy(at, &value, sizeof value); }

void fill_q4_0(RandomBits& bits, int64_t blocks, uint16_t base, std::byte* into) {
  for (int64_t b = 0; b < blocks; ++b, into += 18) {
    put_half(into, jitter(base, bits.next()));
    const uint64_t codes[2] = {bits.next(), bits.next()};
    std::memcpy(into + 2, codes, 16);
  }
}

// scale, minimum, codes; the minimum is -7.5 times the scale, rounded, so that codes are centred.
void fill_q4_1(RandomBits& bits, int64_t blocks, float scale, std::byte* into) {
  for (int64_t b = 0; b < blocks; ++b, into += 20) {
    const uint64_t draw = bits.next();
    const float d = scale * (1.0f + static_cast<float>(draw & 0xff) * 0x1p-10f);
    put_half(into, half_from_float(d));
    put_half(into + 2, half_from_float(-7.5f * d));
    const uint64_t codes[2] = {bits.next(), bits.next()};
    std::memcpy(into + 4, codes, 16);
  }
}

void fill_q8_0(RandomBits& bits, int64_t blocks, uint16_t base, std::byte* into) {
  for (int64_t b = 0; b < blocks; ++b, into += 34) {
    put_half(into, jitter(base, bits.next()));
    for (int i = 0; i < 4; ++i) {
      uint64_t codes = bits.next();
      // Quantisers never give -128: bytes 0x80 become 0x81.
      for (int shift = 0; shift < 64; shift += 8)
        codes |= static_cast<uint64_t>((codes >> shift & 0xff) == 0x80) << shift;
      std::memcpy(into + 2 + 8 * i, &codes, 8);
    }
  }
}

// Uniform in (-1, 1) with 24 bits: exact in f32, so one product is the only rounding.
float uniform(uint32_t draw) { return (static_cast<float>(draw >> 8) - 8388607.5f) * 0x1p-23f; }

template <class T, class Convert>
void fill_floats(RandomBits& bits, int64_t cols, float scale, std::byte* into, Convert convert) {
  for (int64_t c = 0; c < cols; ++c) {
    const T value = convert(uniform(static_cast<uint32_t>(bits.next() >> 32)) * scale);
    std::memcpy(into + c * static_cast<int64_t>(sizeof value), &value, sizeof value);
  }
}

}  // namespace

uint16_t half_from_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);   // NaN
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 2^16 or more
  if (magnitude < 0x38800000) {  // subnormal: units of 2^-24, by adding 0.5, whose last place is 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000;
  return static_cast<uint16_t>(sign | rounded >> 13);
}

uint16_t bfloat_from_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

RandomBits row_bits(uint64_t seed, std::string_view tensor, int64_t row) {
  uint64_t name = 0xcbf29ce484222325;  // FNV-1a
  for (char c : tensor) name = (name ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  RandomBits mix(seed ^ name);
  return RandomBits(mix.next() + static_cast<uint64_t>(row) * 0xd1342543de82ef95);
}

void fill_random_row(RandomBits bits, DType dtype, int64_t cols, double deviation, std::byte* into) {
  const int64_t blocks = cols / 32;
  auto scale = [&](double rms) { return static_cast<float>(deviation / rms); };
  switch (dtype) {
    case DType::f32:
      return fill_floats<float>(bits, cols, scale(kUniformRms), into, [](float v) { return v; });
    case DType::f16:
      return fill_floats<uint16_t>(bits, cols, scale(kUniformRms), into, half_from_float);
    case DType::bf16:
      return fill_floats<uint16_t>(bits, cols, scale(kUniformRms), into, bfloat_from_float);
    case DType::q4_0:
      return fill_q4_0(bits, blocks, half_from_float(scale(kNibbleRms * kScaleRms)), into);
    case DType::q4_1:
      return fill_q4_1(bits, blocks, scale(kCentredRms * kScaleRms), into);
    case DType::q8_0:
      return fill_q8_0(bits, blocks, half_from_float(scale(kByteRms * kScaleRms)), into);
    case DType::i32:
      break;
  }
  SPILLWAY_CHECK(false);
}

}  // namespace spillway
