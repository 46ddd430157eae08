// Rows of logits that are hard on whoever looks for the largest.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/ops.h"
#include "tests/support/random_blocks.h"

namespace spillway {

enum class LogitRow { random, equal, few_values, rising, falling, zeros_of_both_signs, mostly_forbidden, extreme };
inline constexpr LogitRow kLogitRows[] = {LogitRow::random,           LogitRow::equal,   LogitRow::few_values,
                                          LogitRow::rising,           LogitRow::falling, LogitRow::zeros_of_both_signs,
                                          LogitRow::mostly_forbidden, LogitRow::extreme};

inline void fill_logits(LogitRow kind, uint64_t seed, int64_t cols, float* row) {
  fill_random_row(row_bits(seed, "logits", 0), DType::f32, cols, 4.0, reinterpret_cast<std::byte*>(row));
  for (int64_t i = 0; i < cols; i++) {
    const auto at = static_cast<float>(i);
    switch (kind) {
      case LogitRow::random:
        break;
      case LogitRow::equal:
        row[i] = -1.5f;
        break;
      case LogitRow::few_values:
        row[i] = std::floor(row[i] / 4);
        break;
      case LogitRow::rising:
        row[i] = at / 16;
        break;
      case LogitRow::falling:
        row[i] = -at / 16;
        break;
      case LogitRow::zeros_of_both_signs:
        row[i] = row[i] < 0 ? -0.0f : 0.0f;
        break;
      case LogitRow::mostly_forbidden:
        if (i % 97 != 5) row[i] = -std::numeric_limits<float>::infinity();
        break;
      case LogitRow::extreme:  // one residue of 1024 has all that is large
        row[i] = i % 1024 == 3 ? 1e30f + at : row[i] * 1e-30f;
        break;
    }
  }
}

// The same candidates, and a sum within rounding.
inline void expect_same_candidates(const float* got, const float* wanted, int k) {
  for (int i = 0; i < k; i++) {
    int32_t id = 0, wanted_id = 0;
    std::memcpy(&id, got + k + i, sizeof id);
    std::memcpy(&wanted_id, wanted + k + i, sizeof wanted_id);
    ASSERT_EQ(got[i], wanted[i]) << "candidate " << i;
    ASSERT_EQ(id, wanted_id) << "candidate " << i;
  }
  ASSERT_NEAR(got[2 * k], wanted[2 * k], 4e-6 * wanted[2 * k]);
}

}  // namespace spillway
