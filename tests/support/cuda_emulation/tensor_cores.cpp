#include "tests/support/cuda_emulation/tensor_cores.h"

#include <cmath>

namespace spillway::emulation {
namespace {

constexpr int kRows = 16, kCols = 8;

// The exact sum, rounded towards zero.
float rounded(double sum) {
  const auto nearest = static_cast<float>(sum);
  if (std::isfinite(nearest) && std::abs(static_cast<double>(nearest)) > std::abs(sum)) {
    return std::nextafter(nearest, 0.0f);
  }
  return nearest;
}
int rounded(int64_t sum) { return static_cast<int>(static_cast<uint32_t>(sum)); }

// Element k of the 32 bytes that 8 registers of 4 lanes hold of a row of A or a column of B: register `low` of lane t
// has bytes 4 t .., register `high` bytes 16 + 4 t ..
int64_t signed_byte(uint32_t word, int byte) { return static_cast<int8_t>(word >> 8 * byte); }
double half(uint32_t word, int byte) { return f16_to_f32(static_cast<uint16_t>(word >> 8 * byte)); }
double bfloat(uint32_t word, int byte) { return bf16_to_f32(static_cast<uint16_t>(word >> 8 * byte)); }

template <typename Sum, typename Wide, int kElementBytes>
void multiply(void* const* lanes, Wide (*element)(uint32_t, int)) {
  constexpr int kDepth = 32 / kElementBytes;
  const auto lane = [&](int l) -> const MatrixProduct<Sum>& { return *static_cast<MatrixProduct<Sum>*>(lanes[l]); };
  Wide a[kRows][kDepth], b[kCols][kDepth];
  for (int k = 0; k < kDepth; k++) {
    const int byte = k * kElementBytes, upper = byte / 16, t = byte % 16 / 4;
    for (int row = 0; row < kRows; row++) {
      a[row][k] = element(lane(row % 8 * 4 + t).a[2 * upper + row / 8], byte % 4);
    }
    for (int col = 0; col < kCols; col++) b[col][k] = element(lane(col * 4 + t).b[upper], byte % 4);
  }
  for (int row = 0; row < kRows; row++) {
    for (int col = 0; col < kCols; col++) {
      Sum& c = lane(row % 8 * 4 + col / 2).c[row / 8 * 2 + col % 2];
      Wide sum = c;
      for (int k = 0; k < kDepth; k++) sum += a[row][k] * b[col][k];
      c = rounded(sum);
    }
  }
}

void gather(void* const* lanes, bool transposed) {
  const auto lane = [&](int l) -> MatrixRow& { return *static_cast<MatrixRow*>(lanes[l]); };
  const auto element = [&](int matrix, int row, int col) {
    return lane(matrix * 8 + row).words[col / 2] >> col % 2 * 16 & 0xffff;
  };
  for (int l = 0; l < static_cast<int>(kWarpSize); l++) {
    const int g = l / 4, t = l % 4;
    for (int matrix = 0; matrix < 4; matrix++) {
      const uint32_t low = transposed ? element(matrix, 2 * t, g) : element(matrix, g, 2 * t);
      const uint32_t high = transposed ? element(matrix, 2 * t + 1, g) : element(matrix, g, 2 * t + 1);
      lane(l).result[matrix] = low | high << 16;
    }
  }
}

}  // namespace

void compute_collective(WarpVerb verb, void* const* lanes) {
  switch (verb) {
    case WarpVerb::mma_s8:
      return multiply<int, int64_t, 1>(lanes, signed_byte);
    case WarpVerb::mma_f16:
      return multiply<float, double, 2>(lanes, half);
    case WarpVerb::mma_bf16:
      return multiply<float, double, 2>(lanes, bfloat);
    default:
      return gather(lanes, verb == WarpVerb::load_matrices_transposed);
  }
}

}  // namespace spillway::emulation
