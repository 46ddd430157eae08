// Random weights of any type, the same bits on every machine: integer generator, and only correctly rounded arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/view.h"

namespace spillway {

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
class RandomBits {
 public:
  explicit RandomBits(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// A stream of its own for each row of each tensor, so that rows can be made in any order.
RandomBits row_bits(uint64_t seed, std::string_view tensor, int64_t row);

// One row of `cols` elements of zero mean and about this standard deviation.
void fill_random_row(RandomBits bits, DType dtype, int64_t cols, double deviation, std::byte* into);

// Round to nearest even; overflow becomes infinity.
uint16_t half_from_float(float value);
uint16_t bfloat_from_float(float value);

}  // namespace spillway
