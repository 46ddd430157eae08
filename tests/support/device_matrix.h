// Matrices that live on the host and on a CUDA device, emulated or real: what a test of kernels needs around a table.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/cuda/module.h"
#include "kernels/reference/dequantize.h"
#include "tests/support/random_blocks.h"

namespace spillway {

inline void expect_fine(CudaProblem problem) { ASSERT_EQ(problem, nullptr) << problem; }

// A block of device memory and one of pinned host memory, of the same size.
class DeviceBytes {
 public:
  DeviceBytes(const SpillwayCudaTable& table, uint64_t bytes) : table_(table), bytes_(bytes) {
    expect_fine(table.reserve(bytes, &device_));
    expect_fine(table.reserve_host(bytes, &host_));
  }
  ~DeviceBytes() {
    table_.release(device_);
    table_.release_host(host_);
  }
  DeviceBytes(const DeviceBytes&) = delete;

  std::byte* device() const { return static_cast<std::byte*>(device_); }
  std::byte* host() const { return static_cast<std::byte*>(host_); }
  uint64_t bytes() const { return bytes_; }
  void upload(CudaStream stream) { expect_fine(table_.copy(stream, device_, host_, bytes_)); }
  void download(CudaStream stream) {
    expect_fine(table_.copy(stream, host_, device_, bytes_));
    expect_fine(table_.synchronize(stream));
  }

 private:
  const SpillwayCudaTable& table_;
  uint64_t bytes_;
  void* device_ = nullptr;
  void* host_ = nullptr;
};

// How a matrix lies in its block: bytes before the first row, and unused ones between rows. It ends where the block
// ends.
struct Placing {
  uint64_t offset = 0;
  uint64_t gap = 0;
};

class DeviceMatrix {
 public:
  DeviceMatrix(const SpillwayCudaTable& table, DType type, int64_t rows, int64_t cols, Placing placing = {})
      : stride_(row_bytes(type, cols) + placing.gap),
        bytes_(table, rows > 0 ? placing.offset + (rows - 1) * stride_ + row_bytes(type, cols) : 0),
        host_{bytes_.host() + placing.offset, type, rows, cols, stride_},
        device_{bytes_.device() + placing.offset, type, rows, cols, stride_} {}

  const View& host() const { return host_; }
  const View& device() const { return device_; }
  float at(int64_t row, int64_t col) const { return element(host_.dtype, host_.row(row), col); }

  DeviceMatrix& fill(uint64_t seed, double deviation = 1.0) {
    for (int64_t r = 0; r < host_.rows; r++) {
      fill_random_row(row_bits(seed, "device matrix", r), host_.dtype, host_.cols, deviation, host_.row(r));
    }
    return *this;
  }
  void upload(CudaStream stream) { bytes_.upload(stream); }
  void download(CudaStream stream) { bytes_.download(stream); }

 private:
  uint64_t stride_;
  DeviceBytes bytes_;
  View host_;
  View device_;
};

// Whether `count` rows of f32, from `first_a` and `first_b` on, hold the same bits.
inline bool same_bits(const DeviceMatrix& a, int64_t first_a, const DeviceMatrix& b, int64_t first_b, int64_t count) {
  const auto bytes = static_cast<size_t>(a.host().cols) * sizeof(float);
  for (int64_t r = 0; r < count; r++) {
    if (std::memcmp(a.host().row(first_a + r), b.host().row(first_b + r), bytes) != 0) return false;
  }
  return a.host().cols == b.host().cols;
}

}  // namespace spillway
