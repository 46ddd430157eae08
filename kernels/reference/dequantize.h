// Single elements and rows of any type, by the definitions of kernels/blocks.h. For the reference and for tests:
// nothing here is fast.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/check.h"
#include "kernels/view.h"

namespace spillway {

// Element i of a row of floating-point type or of quantised blocks.
inline float element(DType type, const std::byte* row, int64_t i) {
  uint16_t half;
  float single;
  switch (type) {
    case DType::f32:
      std::memcpy(&single, row + i * 4, sizeof single);
      return single;
    case DType::f16:
      std::memcpy(&half, row + i * 2, sizeof half);
      return f16_to_f32(half);
    case DType::bf16:
      std::memcpy(&half, row + i * 2, sizeof half);
      return bf16_to_f32(half);
    case DType::q8_0:
      return block_element(reinterpret_cast<const BlockQ8_0*>(row)[i / kBlockElements], i % kBlockElements);
    case DType::q4_0:
      return block_element(reinterpret_cast<const BlockQ4_0*>(row)[i / kBlockElements], i % kBlockElements);
    case DType::q4_1:
      return block_element(reinterpret_cast<const BlockQ4_1*>(row)[i / kBlockElements], i % kBlockElements);
    case DType::i32:
      break;
  }
  SPILLWAY_CHECK(!"a type with floating-point values");
  return 0.0f;
}

// values[0 .. cols) = the elements of a row; the type is looked at once.
inline void load_row(DType type, const std::byte* row, int64_t cols, double* values) {
  const auto load = [&](auto element_of) {
    for (int64_t i = 0; i < cols; i++) values[i] = element_of(i);
  };
  switch (type) {
    case DType::f32:
      return load([&](int64_t i) { return element(DType::f32, row, i); });
    case DType::f16:
      return load([&](int64_t i) { return element(DType::f16, row, i); });
    case DType::bf16:
      return load([&](int64_t i) { return element(DType::bf16, row, i); });
    case DType::q8_0:
      return load([&](int64_t i) { return element(DType::q8_0, row, i); });
    case DType::q4_0:
      return load([&](int64_t i) { return element(DType::q4_0, row, i); });
    case DType::q4_1:
      return load([&](int64_t i) { return element(DType::q4_1, row, i); });
    case DType::i32:
      break;
  }
  SPILLWAY_CHECK(!"a type with floating-point values");
}

// Writes `cols` values as a row of `type`: floating-point types rounded to nearest even, blocks by their quantiser.
// cols must be a multiple of the block.
inline void store_row(DType type, const float* values, int64_t cols, std::byte* row) {
  SPILLWAY_CHECK(cols % info(type).block_elements == 0 && type != DType::i32);
  for (int64_t i = 0; i < cols; i += info(type).block_elements) {
    std::byte* to = row + row_bytes(type, i);
    const uint16_t half = type == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    if (type == DType::f32) std::memcpy(to, values + i, sizeof(float));
    if (type == DType::f16 || type == DType::bf16) std::memcpy(to, &half, sizeof half);
    if (type == DType::q8_0) quantize_block(values + i, reinterpret_cast<BlockQ8_0*>(to));
    if (type == DType::q4_0) quantize_block(values + i, reinterpret_cast<BlockQ4_0*>(to));
    if (type == DType::q4_1) quantize_block(values + i, reinterpret_cast<BlockQ4_1*>(to));
  }
}

}  // namespace spillway
