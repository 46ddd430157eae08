#include "tests/support/random_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/super_blocks.h"

namespace spillway {
namespace {

// Root mean squares of what the blocks draw.
constexpr double kUniformRms = 0.57735026918962576;  // of the interval (-1, 1): 1 / sqrt(3)
constexpr double kNibbleRms = 4.6368092477478520;    // of 0..15 less 8: sqrt(21.5)
constexpr double kCentredRms = 4.6097722286464435;   // of 0..15 less 7.5: sqrt(21.25)
constexpr double kByteRms = 73.900383850154797;      // of -128..127: sqrt(5461.25), a hair less without -128
constexpr double kFiveBitsRms = 9.246621004453464;   // of 0..31 less 16: sqrt(85.5)
constexpr double kCentred5Rms = 9.233092656309694;   // of 0..31 less 15.5: sqrt(85.25)
constexpr double kIq4Rms = 67.43886120034946;        // of the 16 values: sqrt(4548)
// Of a sub-block's scale times code (less offset, which differs from the scale in two drawn bits).
constexpr double kQ2KRms = 10.124228365658293;    // 0..15 and 0..3 less 1.5: sqrt(77.5 * 1.25 + 1.5^2 * 2.5)
constexpr double kQ3KRms = 43.33878170876519;     // 0..63 less 32, 0..7 less 4: sqrt(341.5 * 5.5)
constexpr double kQ4KRms = 168.7527777549158;     // 0..63 and 0..15 less 7.5: sqrt(1333.5 * 21.25 + 7.5^2 * 2.5)
constexpr double kQ5KRms = 338.05546882131637;    // 0..63 and 0..31 less 15.5: sqrt(1333.5 * 85.25 + 15.5^2 * 2.5)
constexpr double kQ6KRms = 1365.687464246487;     // -128..127 and 0..63 less 32: sqrt(5461.5 * 341.5)
constexpr double kIq4XsRms = 1246.2511785350496;  // 0..63 less 32 and the 16 values: sqrt(341.5 * 4548)
constexpr double kScaleRms = 1.1268;              // of jittered scales: uniform in [1, 1.25)

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

// Blocks of random bits, whose scale and offset put() then sets: d in [1, 1.25) times `scale`, of either sign.
template <class Block, class Put>
void fill_blocks(RandomBits& bits, int64_t cols, double scale, std::byte* into, Put put) {
  for (int64_t b = 0; b < cols / Block::kElements; ++b, into += sizeof(Block)) {
    Block block;
    for (size_t at = 0; at < sizeof block; at += sizeof(uint64_t)) {
      const uint64_t draw = bits.next();
      std::memcpy(reinterpret_cast<std::byte*>(&block) + at, &draw, std::min(sizeof draw, sizeof block - at));
    }
    const uint64_t draw = bits.next();
    const float size = static_cast<float>(scale) * (1.0f + static_cast<float>(draw & 0xff) * 0x1p-10f);
    put(block, (draw & 0x8000) != 0 ? -size : size);
    std::memcpy(into, &block, sizeof block);
  }
}

template <class Block>
void put_scale(Block& block, float d) {
  block.d = half_from_float(d);
}

// An offset near the scale times the middle of the codes: its upper bits agree with the scale's, the lower two are
// drawn.
void put_offsets_q2_k(BlockQ2_K& block, float d) {
  put_scale(block, d);
  block.dmin = half_from_float(1.5f * d);
  for (uint8_t& scale : block.scales) scale = static_cast<uint8_t>((scale & 0x3f) | (scale & 0x0c) << 4);
}

// As above; scales and offsets of 6 bits, packed as scale_offset() reads them.
template <class Block>
void put_offsets(Block& block, float d, float middle) {
  put_scale(block, d);
  block.dmin = half_from_float(middle * d);
  uint8_t packed[12] = {};
  for (int s = 0; s < 8; ++s) {
    const ScaleOffset drawn = scale_offset(block.scales, s);
    const int scale = drawn.scale;
    const int offset = (drawn.scale & ~3) | (drawn.offset & 3);
    if (s < 4) {
      packed[s] = static_cast<uint8_t>(packed[s] | scale);
      packed[s + 4] = static_cast<uint8_t>(packed[s + 4] | offset);
    } else {
      packed[s + 4] = static_cast<uint8_t>((scale & 15) | (offset & 15) << 4);
      packed[s - 4] = static_cast<uint8_t>(packed[s - 4] | (scale >> 4) << 6);
      packed[s] = static_cast<uint8_t>(packed[s] | (offset >> 4) << 6);
    }
  }
  std::memcpy(block.scales, packed, sizeof packed);
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
    case DType::q5_0:
      return fill_blocks<BlockQ5_0>(bits, cols, scale(kFiveBitsRms * kScaleRms), into, put_scale<BlockQ5_0>);
    case DType::q5_1:
      return fill_blocks<BlockQ5_1>(bits, cols, scale(kCentred5Rms * kScaleRms), into, [](BlockQ5_1& block, float d) {
        put_scale(block, d);
        block.m = half_from_float(-15.5f * d);
      });
    case DType::iq4_nl:
      return fill_blocks<BlockIQ4_NL>(bits, cols, scale(kIq4Rms * kScaleRms), into, put_scale<BlockIQ4_NL>);
    case DType::q2_k:
      return fill_blocks<BlockQ2_K>(bits, cols, scale(kQ2KRms * kScaleRms), into, put_offsets_q2_k);
    case DType::q3_k:
      return fill_blocks<BlockQ3_K>(bits, cols, scale(kQ3KRms * kScaleRms), into, put_scale<BlockQ3_K>);
    case DType::q4_k:
      return fill_blocks<BlockQ4_K>(bits, cols, scale(kQ4KRms * kScaleRms), into,
                                    [](BlockQ4_K& block, float d) { put_offsets(block, d, 7.5f); });
    case DType::q5_k:
      return fill_blocks<BlockQ5_K>(bits, cols, scale(kQ5KRms * kScaleRms), into,
                                    [](BlockQ5_K& block, float d) { put_offsets(block, d, 15.5f); });
    case DType::q6_k:
      return fill_blocks<BlockQ6_K>(bits, cols, scale(kQ6KRms * kScaleRms), into, put_scale<BlockQ6_K>);
    case DType::iq4_xs:
      return fill_blocks<BlockIQ4_XS>(bits, cols, scale(kIq4XsRms * kScaleRms), into, put_scale<BlockIQ4_XS>);
    case DType::i32:
      break;
  }
  SPILLWAY_CHECK(false);
}

}  // namespace spillway
