#include "kernels/cpu/pack_page.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/kv_codec.h"

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Of the elements of a group.
struct Range {
  float smallest = kInfinity;
  float largest = -kInfinity;
  bool finite = true;

  GroupScale scale(int bits) const { return group_scale(smallest, largest, finite, bits); }
};

// A token's row of halves, as floats too.
struct Row {
  float values[kMostHeadDim];
  uint16_t halves[kMostHeadDim];

  void load(const CpuKernels& kernels, const std::byte* row, int head_dim) {
    std::memcpy(halves, row, sizeof(uint16_t) * static_cast<size_t>(head_dim));
    kernels.widen(DType::f16, row, head_dim, values);
  }
};

void put_scale(const GroupScale& scale, std::byte* out) { std::memcpy(out, &scale, sizeof scale); }

void pack_per_token(const CpuKernels& kernels, const PackedPage& p, const std::byte* rows, bool value,
                    std::byte* packed) {
  Row row;
  uint8_t codes[kMostHeadDim];
  for (int token = 0; token < kPageTokens; token++) {
    row.load(kernels, rows + int64_t{2} * token * p.head_dim, p.head_dim);
    for (int first = 0; first < p.head_dim; first += p.group) {
      Range range;
      for (int c = first; c < first + p.group; c++) {
        range.smallest = std::min(range.smallest, row.values[c]);
        range.largest = std::max(range.largest, row.values[c]);
        range.finite &= is_finite_f16(row.halves[c]);
      }
      const GroupScale scale = range.scale(p.bits);
      put_scale(scale, packed + p.scales(token, value) + first / p.group * 4);
      const float minimum = f16_to_f32(scale.minimum), inverse = inverse_of(scale);
      for (int c = first; c < first + p.group; c++) {
        codes[c] = static_cast<uint8_t>(code_of(row.values[c], minimum, inverse, p.bits));
      }
    }
    put_codes(codes, p.head_dim, p.bits, packed + p.codes(token, value));
  }
}

void pack_per_channel(const CpuKernels& kernels, const PackedPage& p, const std::byte* rows, std::byte* packed) {
  Row row;
  Range ranges[kMostHeadDim];
  for (int token = 0; token < kPageTokens; token++) {
    row.load(kernels, rows + int64_t{2} * token * p.head_dim, p.head_dim);
    for (int c = 0; c < p.head_dim; c++) {
      ranges[c].smallest = std::min(ranges[c].smallest, row.values[c]);
      ranges[c].largest = std::max(ranges[c].largest, row.values[c]);
      ranges[c].finite &= is_finite_f16(row.halves[c]);
    }
  }
  float minima[kMostHeadDim], inverses[kMostHeadDim];
  for (int c = 0; c < p.head_dim; c++) {
    const GroupScale scale = ranges[c].scale(p.bits);
    put_scale(scale, packed + 4 * c);
    minima[c] = f16_to_f32(scale.minimum);
    inverses[c] = inverse_of(scale);
  }
  uint8_t codes[kMostHeadDim];
  for (int token = 0; token < kPageTokens; token++) {
    row.load(kernels, rows + int64_t{2} * token * p.head_dim, p.head_dim);
    for (int c = 0; c < p.head_dim; c++) {
      codes[c] = static_cast<uint8_t>(code_of(row.values[c], minima[c], inverses[c], p.bits));
    }
    put_codes(codes, p.head_dim, p.bits, packed + p.codes(token, false));
  }
}

}  // namespace

void put_codes(const uint8_t* codes, int count, int bits, std::byte* out) {
  const int per_byte = 8 / bits;
  for (int i = 0; i < count / per_byte; i++) {
    uint32_t byte = 0;
    for (int j = 0; j < per_byte; j++) byte |= static_cast<uint32_t>(codes[i * per_byte + j]) << j * bits;
    out[i] = static_cast<std::byte>(byte);
  }
}

void pack_page(const CpuKernels& kernels, const PackedPage& layout, const std::byte* page, std::byte* packed) {
  if (layout.header_bytes > 0) {
    pack_per_channel(kernels, layout, page, packed);
  } else {
    pack_per_token(kernels, layout, page, false, packed);
  }
  pack_per_token(kernels, layout, page + int64_t{2} * kPageTokens * layout.head_dim, true, packed);
}

}  // namespace spillway
