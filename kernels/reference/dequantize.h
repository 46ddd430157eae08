// Single elements and rows of any type, by the definitions of kernels/blocks.h. For the reference and for tests:
// nothing here is fast.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/super_blocks.h"
#include "kernels/view.h"

namespace spillway {

// Element i of a row of floating-point type or of quantised blocks.
inline float element(DType type, const std::byte* row, int64_t i) {
  SPILLWAY_CHECK(type != DType::i32);
  if (is_quantised(type)) {
    return with_block_type(type, [&]<typename Block>(Block) {
      return block_element(reinterpret_cast<const Block*>(row)[i / Block::kElements],
                           static_cast<int>(i % Block::kElements));
    });
  }
  if (type == DType::f32) {
    float single;
    std::memcpy(&single, row + i * 4, sizeof single);
    return single;
  }
  uint16_t half;
  std::memcpy(&half, row + i * 2, sizeof half);
  return type == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

// values[0 .. cols) = the elements of a row; the type is looked at once.
inline void load_row(DType type, const std::byte* row, int64_t cols, double* values) {
  const auto load = [&](auto element_of) {
    for (int64_t i = 0; i < cols; i++) values[i] = element_of(i);
  };
  if (is_quantised(type)) {
    return with_block_type(type, [&]<typename Block>(Block) {
      const auto* blocks = reinterpret_cast<const Block*>(row);
      load([&](int64_t i) {
        return block_element(blocks[i / Block::kElements], static_cast<int>(i % Block::kElements));
      });
    });
  }
  switch (type) {
    case DType::f32:
      return load([&](int64_t i) { return element(DType::f32, row, i); });
    case DType::f16:
      return load([&](int64_t i) { return element(DType::f16, row, i); });
    case DType::bf16:
      return load([&](int64_t i) { return element(DType::bf16, row, i); });
    default:
      break;
  }
  SPILLWAY_CHECK(!"a type with floating-point values");
}

// Writes `cols` values as a row of `type`: floating-point types rounded to nearest even, blocks by their quantiser,
// which Q8_0, Q4_0 and Q4_1 have. cols must be a multiple of the block.
inline void store_row(DType type, const float* values, int64_t cols, std::byte* row) {
  SPILLWAY_CHECK(cols % info(type).block_elements == 0 && type != DType::i32);
  for (int64_t i = 0; i < cols; i += info(type).block_elements) {
    std::byte* to = row + row_bytes(type, i);
    const uint16_t half = type == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    switch (type) {
      case DType::f32:
        std::memcpy(to, values + i, sizeof(float));
        break;
      case DType::f16:
      case DType::bf16:
        std::memcpy(to, &half, sizeof half);
        break;
      case DType::q8_0:
        quantize_block(values + i, reinterpret_cast<BlockQ8_0*>(to));
        break;
      case DType::q4_0:
        quantize_block(values + i, reinterpret_cast<BlockQ4_0*>(to));
        break;
      case DType::q4_1:
        quantize_block(values + i, reinterpret_cast<BlockQ4_1*>(to));
        break;
      default:
        SPILLWAY_CHECK(!"a type with a quantiser");
    }
  }
}

}  // namespace spillway
