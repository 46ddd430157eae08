#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "kernels/reference/dequantize.h"
#include "loader/gguf_types.h"

namespace spillway {
namespace {

using Values = std::array<float, kBlockElements>;

// A format's value by its definition: sign, exponent with its bias, mantissa.
double value_of(uint16_t bits, int mantissa_bits, int bias) {
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = (bits & 0x7fff) >> mantissa_bits;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Every finite value is read exactly and comes back; between two neighbours the nearer one is taken, halfway the even
// one.
template <typename ToFloat, typename FromFloat>
void check_half_format(int mantissa_bits, int bias, uint16_t infinity, ToFloat to_float, FromFloat from_float) {
  for (uint32_t h = 0; h < infinity; h++) {
    for (const uint32_t sign : {0x0000u, 0x8000u}) {
      const auto half = static_cast<uint16_t>(h | sign);
      const float x = to_float(half);
      ASSERT_EQ(static_cast<double>(x), value_of(half, mantissa_bits, bias)) << std::hex << half;
      ASSERT_EQ(std::signbit(x), sign != 0);
      ASSERT_EQ(from_float(x), half) << std::hex << half;
      // The midpoint to the next one outwards (to what infinity would be, were it a number).
      const auto middle = static_cast<float>(
          (value_of(half, mantissa_bits, bias) + value_of(static_cast<uint16_t>(half + 1), mantissa_bits, bias)) / 2);
      const float inwards = std::nextafter(middle, 0.0f);
      const float outwards = std::nextafter(middle, sign != 0 ? -INFINITY : INFINITY);
      ASSERT_EQ(from_float(middle), half + (half & 1)) << std::hex << half;
      ASSERT_EQ(from_float(inwards), half) << std::hex << half;
      ASSERT_EQ(from_float(outwards), half + 1) << std::hex << half;
    }
  }
}

TEST(Blocks, Fp16ConvertsExactly) {
  check_half_format(10, 15, 0x7c00, f16_to_f32, f32_to_f16);
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(f16_to_f32(0xfc00), -INFINITY);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
}

TEST(Blocks, Bf16ConvertsExactly) {
  check_half_format(7, 127, 0x7f80, bf16_to_f32, f32_to_bf16);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_bf16(INFINITY), 0x7f80);
  EXPECT_EQ(bf16_to_f32(0xff80), -INFINITY);
  EXPECT_EQ(f32_to_bf16(-0.0f), 0x8000);
}

TEST(Blocks, NanStaysNanAndQuiet) {
  for (uint32_t mantissa = 1; mantissa < 0x400; mantissa++) {
    const auto half = static_cast<uint16_t>(0xfc00 | mantissa);
    EXPECT_EQ(float_bits(f16_to_f32(half)), 0xff800000u | 0x400000u | mantissa << 13);
    EXPECT_EQ(f32_to_f16(f16_to_f32(half)), half | 0x200);
  }
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0x7fc00000u}) {
    const float x = float_from_bits(bits);
    EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(x)))) << std::hex << bits;
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(x)))) << std::hex << bits;
    EXPECT_EQ(f32_to_f16(x) >> 15, bits >> 31);
    EXPECT_EQ(f32_to_bf16(x) >> 15, bits >> 31);
  }
}

TEST(Blocks, Q8ReadsSignedBytes) {
  BlockQ8_0 block{0x3800, {}};  // 0.5
  for (int i = 0; i < kBlockElements; i++) block.qs[i] = static_cast<int8_t>(i * 8 - 128);
  Values values;
  dequantize_block(block, values.data());
  for (int i = 0; i < kBlockElements; i++)
    EXPECT_EQ(values[static_cast<size_t>(i)], 0.5f * static_cast<float>(i * 8 - 128));
}

TEST(Blocks, LowNibblesComeFirst) {
  BlockQ4_0 block4_0{0x3c00, {}};          // 1
  BlockQ4_1 block4_1{0x4000, 0xc200, {}};  // 2 * q - 3
  for (int i = 0; i < 16; i++) {
    block4_0.qs[i] = static_cast<uint8_t>(i | (15 - i) << 4);
    block4_1.qs[i] = block4_0.qs[i];
  }
  Values q4_0, q4_1;
  dequantize_block(block4_0, q4_0.data());
  dequantize_block(block4_1, q4_1.data());
  for (int i = 0; i < 16; i++) {
    const auto low = static_cast<size_t>(i);
    EXPECT_EQ(q4_0[low], static_cast<float>(i - 8));
    EXPECT_EQ(q4_0[low + 16], static_cast<float>(7 - i));
    EXPECT_EQ(q4_1[low], static_cast<float>(2 * i - 3));
    EXPECT_EQ(q4_1[low + 16], static_cast<float>(2 * (15 - i) - 3));
  }
}

// Blocks of these values by gguf-py 0.19, whose numpy quantisers are bit-exact to ggml's: x[i] = ((i * 37) % 64 - 23) *
// 0.11.
Values sample() {
  Values x;
  for (int i = 0; i < kBlockElements; i++) x[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 64 - 23) * 0.11f;
  return x;
}

template <typename Block>
std::vector<int> quantized_bytes(const Values& x) {
  Block block;
  quantize_block(x.data(), &block);
  std::vector<int> bytes(sizeof block);
  for (size_t i = 0; i < sizeof block; i++) bytes[i] = reinterpret_cast<const uint8_t*>(&block)[i];
  return bytes;
}

TEST(Blocks, QuantisersGiveTheBytesOfGgml) {
  EXPECT_EQ(quantized_bytes<BlockQ8_0>(sample()),
            (std::vector<int>{111, 40,  183, 44, 215, 76, 246, 108, 22,  192, 54, 224, 86, 0,   117, 32,  202,
                              64,  234, 95,  10, 127, 41, 212, 73,  243, 105, 19, 189, 51, 221, 83,  253, 114}));
  EXPECT_EQ(quantized_bytes<BlockQ4_0>(sample()),
            (std::vector<int>{102, 184, 157, 37, 123, 3, 89, 177, 55, 156, 21, 122, 195, 88, 161, 54, 139, 20}));
  EXPECT_EQ(quantized_bytes<BlockQ4_1>(sample()), (std::vector<int>{100, 55, 15,  193, 64, 217, 98, 251, 149, 46,
                                                                    183, 81, 218, 115, 12, 149, 62, 200, 81,  234}));
}

TEST(Blocks, QuantisedValuesAreNear) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 2000; round++) {
    const float scale = std::ldexp(1.0f, static_cast<int>(random() % 16) - 8);
    Values x, y;
    float largest = 0, least = INFINITY, most = -INFINITY;
    for (float& value : x) {
      value = normal(random) * scale;
      largest = std::max(largest, std::fabs(value));
      least = std::min(least, value);
      most = std::max(most, value);
    }
    const auto worst = [&](auto block) {
      quantize_block(x.data(), &block);
      dequantize_block(block, y.data());
      float error = 0;
      for (size_t i = 0; i < x.size(); i++) error = std::max(error, std::fabs(x[i] - y[i]));
      return error;
    };
    // Half a step, and the rounding of the scales to fp16 (2^-11) at the far end of the codes. Q4_0 clips at 7 steps
    // of 8.
    ASSERT_LE(worst(BlockQ8_0{}), largest * (0.501f / 127 + 1.0f / 2048));
    ASSERT_LE(worst(BlockQ4_0{}), largest * (1.001f / 8 + 1.0f / 2048));
    ASSERT_LE(worst(BlockQ4_1{}), (most - least) * (0.501f / 15 + 1.0f / 2048) + largest / 2048);
  }
}

TEST(Blocks, ValuesOnTheGridComeBackExactly) {
  Values x, y;
  for (int i = 0; i < kBlockElements; i++) x[static_cast<size_t>(i)] = static_cast<float>((i * 5) % 16 - 8) * 0.25f;
  const auto same = [&](auto block) {
    quantize_block(x.data(), &block);
    dequantize_block(block, y.data());
    return x == y;
  };
  EXPECT_TRUE(same(BlockQ4_0{}));
  EXPECT_TRUE(same(BlockQ4_1{}));
  for (int i = 0; i < kBlockElements; i++) x[static_cast<size_t>(i)] = static_cast<float>(i * 8 - 127) * 0.125f;
  EXPECT_TRUE(same(BlockQ8_0{}));
  x.fill(0.0f);
  EXPECT_TRUE(same(BlockQ8_0{}) && same(BlockQ4_0{}) && same(BlockQ4_1{}));
  x.fill(1.5f);
  EXPECT_TRUE(same(BlockQ4_1{}));
}

TEST(Blocks, ValuesWithoutSenseGiveCodesInRange) {
  for (const float odd : {std::nanf(""), INFINITY, -INFINITY, 1e38f, -1e38f, 1e-45f}) {
    Values x;
    x.fill(1.0f);
    x[5] = odd;
    BlockQ8_0 q8_0;
    BlockQ4_0 q4_0;
    BlockQ4_1 q4_1;
    quantize_block(x.data(), &q8_0);
    quantize_block(x.data(), &q4_0);
    quantize_block(x.data(), &q4_1);
    for (const int8_t q : q8_0.qs) EXPECT_GE(q, -127);
  }
}

// Random blocks and their values by the Python package gguf (tests/oracle/make_blocks.py), to the bit.
TEST(Blocks, EveryQuantisedTypeHasTheValuesOfGguf) {
  std::ifstream file(SPILLWAY_TEST_DATA "/blocks.bin", std::ios::binary);
  ASSERT_TRUE(file);
  std::set<DType> seen;
  uint32_t counts[3];  // the type, bytes, values
  while (file.read(reinterpret_cast<char*>(counts), sizeof counts)) {
    const std::optional<DType> type = dtype_of_ggml(counts[0]);
    ASSERT_TRUE(type) << counts[0];
    ASSERT_EQ(row_bytes(*type, counts[2]), counts[1]) << info(*type).name;
    seen.insert(*type);
    std::vector<std::byte> blocks(counts[1]);
    std::vector<float> values(counts[2]);
    file.read(reinterpret_cast<char*>(blocks.data()), counts[1]);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    ASSERT_TRUE(file);
    for (size_t i = 0; i < values.size(); i++) {
      ASSERT_EQ(element(*type, blocks.data(), static_cast<int64_t>(i)), values[i]) << info(*type).name << " " << i;
    }
  }
  EXPECT_EQ(seen, std::set<DType>(std::begin(kQuantisedTypes), std::end(kQuantisedTypes)));
}

TEST(Blocks, StoredRowsAreReadBack) {
  Values x;
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i) - 16.0f;
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1}) {
    std::vector<std::byte> row(row_bytes(type, 96) + 2);
    std::byte* at = row.data() + (type == DType::f32 ? 0 : 2);  // blocks lie at any even address
    for (int block = 0; block < 3; block++) store_row(type, x.data(), 32, at + row_bytes(type, 32 * block));
    const float tolerance = type == DType::q8_0 ? 0.1f : type == DType::q4_0 || type == DType::q4_1 ? 2.1f : 0.0f;
    for (int i = 0; i < 96; i++) ASSERT_NEAR(element(type, at, i), x[static_cast<size_t>(i % 32)], tolerance) << i;
  }
}

}  // namespace
}  // namespace spillway
