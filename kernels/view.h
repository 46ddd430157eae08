// View: where a matrix lies, never who owns it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/check.h"

namespace spillway {

// Element types of tensors, under ggml's names. A quantised type is read in blocks of 32 elements (kernels/blocks.h) or
// of 256 (kernels/super_blocks.h).
enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  iq4_nl,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_xs,
  i32,
};

struct DTypeInfo {
  const char* name;
  int block_elements;
  int block_bytes;
};

inline constexpr DTypeInfo kDTypeInfo[] = {
    {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},       {"Q8_0", 32, 34},
    {"Q4_0", 32, 18},   {"Q4_1", 32, 20},   {"Q5_0", 32, 22},     {"Q5_1", 32, 24},
    {"IQ4_NL", 32, 18}, {"Q2_K", 256, 84},  {"Q3_K", 256, 110},   {"Q4_K", 256, 144},
    {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"IQ4_XS", 256, 136}, {"I32", 1, 4},
};

constexpr const DTypeInfo& info(DType type) { return kDTypeInfo[static_cast<int>(type)]; }
constexpr bool is_quantised(DType type) { return info(type).block_elements > 1; }

inline constexpr DType kQuantisedTypes[] = {DType::q8_0, DType::q4_0,   DType::q4_1, DType::q5_0,
                                            DType::q5_1, DType::iq4_nl, DType::q2_k, DType::q3_k,
                                            DType::q4_k, DType::q5_k,   DType::q6_k, DType::iq4_xs};
inline constexpr DType kWeightTypes[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,   DType::q4_0,
                                         DType::q4_1, DType::q5_0, DType::q5_1, DType::iq4_nl, DType::q2_k,
                                         DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k,   DType::iq4_xs};

// Bytes of one row of `cols` elements; cols must be a multiple of the block.
constexpr uint64_t row_bytes(DType type, int64_t cols) {
  return static_cast<uint64_t>(cols) / info(type).block_elements * info(type).block_bytes;
}

// rows x cols elements; row r starts at data + r * stride bytes. Rows need no alignment beyond the element's own for
// f32 and i32; blocks of quantised types may lie at any even address.
struct View {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t stride = 0;  // bytes from one row to the next

  static View dense(void* data, DType dtype, int64_t rows, int64_t cols) {
    return {static_cast<std::byte*>(data), dtype, rows, cols, row_bytes(dtype, cols)};
  }
  bool operator==(const View&) const = default;
  std::byte* row(int64_t r) const { return data + static_cast<uint64_t>(r) * stride; }
  float* f32(int64_t r = 0) const { return reinterpret_cast<float*>(row(r)); }
  // Rows [first, first + count).
  View slice_rows(int64_t first, int64_t count) const {
    SPILLWAY_CHECK(first >= 0 && count >= 0 && first + count <= rows);
    return {row(first), dtype, count, cols, stride};
  }
  // Columns [first, first + count) of an unquantised view.
  View slice_cols(int64_t first, int64_t count) const {
    SPILLWAY_CHECK(info(dtype).block_elements == 1 && first >= 0 && count >= 0 && first + count <= cols);
    return {data + row_bytes(dtype, first), dtype, rows, count, stride};
  }
};

}  // namespace spillway
