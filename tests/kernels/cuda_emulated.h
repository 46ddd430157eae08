// What tests of CUDA kernels share: a table with a stream, the emulation's or a GPU's, and the reference in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "kernels/backend.h"
#include "tests/support/device_matrix.h"
#include "tests/support/gpu_under_test.h"

namespace spillway {

inline constexpr float kEps = std::numeric_limits<float>::epsilon();

class CudaEmulated : public testing::Test {
 protected:
  void SetUp() override {
    begin_on_gpu_under_test(1);
    expect_fine(table_.make_stream(&stream_));
  }
  void TearDown() override {
    expect_fine(table_.synchronize(stream_));
    expect_fine(table_.end_stream(stream_));
  }

  DeviceMatrix matrix(DType type, int64_t rows, int64_t cols, Placing placing = {}) {
    return DeviceMatrix(table_, type, rows, cols, placing);
  }

  const SpillwayCudaTable& table_ = table_under_test();
  CudaStream stream_ = nullptr;
  std::unique_ptr<Device> reference_ = make_reference_device();
  std::unique_ptr<Stream> reference_stream_ = reference_->make_compute_stream("reference");
};

// Structs that a kernel reads from device memory.
template <typename T>
class DeviceList {
 public:
  DeviceList(const SpillwayCudaTable& table, CudaStream stream, std::span<const T> items)
      : bytes_(table, items.size_bytes()) {
    if (!items.empty()) std::memcpy(bytes_.host(), items.data(), items.size_bytes());
    bytes_.upload(stream);
  }
  const T* device() const { return reinterpret_cast<const T*>(bytes_.device()); }

 private:
  DeviceBytes bytes_;
};

inline AttendShape attend_shape(DType type, int head_dim, int kv_heads, int group) {
  return {.format = {.dtype = type, .kv_heads = kv_heads, .head_dim = head_dim},
          .heads = kv_heads * group,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim))};
}

// A state stands for sums over all weights; the maximum only scales them. `tolerance` grows with the largest score,
// whose rounding it is.
inline void compare_state(const float* got, const float* wanted, int head_dim, double tolerance = 4e-6) {
  const float max = wanted[head_dim], sum = wanted[head_dim + 1];
  if (sum == 0.0f) {
    for (int d = 0; d < head_dim; d++) ASSERT_EQ(got[d], 0.0f);
    ASSERT_EQ(got[head_dim], -std::numeric_limits<float>::infinity());
    ASSERT_EQ(got[head_dim + 1], 0.0f);
    return;
  }
  const double got_scale = 1.0 / got[head_dim + 1], wanted_scale = 1.0 / sum;
  ASSERT_NEAR(got[head_dim] + std::log(got[head_dim + 1]), max + std::log(sum), 2e-6 * (1 + std::abs(max)));
  double largest = 0.0;
  for (int d = 0; d < head_dim; d++) largest = std::max(largest, std::abs(wanted[d] * wanted_scale));
  for (int d = 0; d < head_dim; d++)
    ASSERT_NEAR(got[d] * got_scale, wanted[d] * wanted_scale, tolerance * largest) << d;
}

}  // namespace spillway
