// A device under test beside the reference: matrices with a copy on each, and the bounds that results are held to.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/backends.h"
#include "tests/support/random_blocks.h"

namespace spillway {

// Half the spacing of floats at 1: one rounding.
inline constexpr double kRounding = 0x1p-24;

// Bytes on a device, and their image here.
class BenchBytes {
 public:
  BenchBytes(Device& device, uint64_t bytes)
      : device_(device),
        size_(bytes),
        reserved_(bytes + 64),
        here_(device.reserve_host(reserved_)),
        there_(device.reserve(reserved_)) {}
  ~BenchBytes() {
    device_.release_host(here_, reserved_);
    device_.release(there_, reserved_);
  }
  BenchBytes(const BenchBytes&) = delete;

  std::byte* here() { return here_; }
  std::byte* there() { return there_; }
  uint64_t size() const { return size_; }
  void upload(Stream& stream) {
    stream.copy(there_, here_, size_);
    stream.synchronize();
  }
  void download(Stream& stream) {
    stream.copy(here_, there_, size_);
    stream.synchronize();
  }

 private:
  Device& device_;
  uint64_t size_;
  uint64_t reserved_;
  std::byte* here_;
  std::byte* there_;
};

// A matrix `offset` bytes into its block, `gap` bytes between rows.
class BenchMatrix {
 public:
  BenchMatrix(Device& device, DType dtype, int64_t rows, int64_t cols, uint64_t offset = 0, uint64_t gap = 0)
      : stride_(row_bytes(dtype, cols) + gap), bytes_(device, offset + static_cast<uint64_t>(rows) * stride_) {
    here_ = {bytes_.here() + offset, dtype, rows, cols, stride_};
    there_ = {bytes_.there() + offset, dtype, rows, cols, stride_};
  }
  View here() const { return here_; }
  View there() const { return there_; }
  float* row(int64_t r) const { return here_.f32(r); }
  void upload(Stream& stream) { bytes_.upload(stream); }
  void download(Stream& stream) { bytes_.download(stream); }

  void fill(uint64_t seed, double deviation = 1.0) {
    for (int64_t r = 0; r < here_.rows; r++) {
      fill_random_row(row_bits(seed, "matrix", r), here_.dtype, here_.cols, deviation, here_.row(r));
    }
  }

 private:
  uint64_t stride_;
  BenchBytes bytes_;
  View here_;
  View there_;
};

// A device with its stream and exactly the scratch it asks for; and the reference, on host memory.
class OpBench {
 public:
  explicit OpBench(const Backend& backend, const ModelShape& shape = {}, int rows = 1, int threads = 2)
      : device_(backend.make(threads)),
        stream_(device_->make_compute_stream("test")),
        reference_(make_reference_device()),
        reference_stream_(reference_->make_compute_stream("reference")) {
    scratch_ = std::make_unique<BenchBytes>(*device_, device_->ops().scratch_bytes(shape, rows));
    device_->ops().set_scratch(shape, scratch_->there(), scratch_->size());
  }

  Device& device() { return *device_; }
  Stream& stream() { return *stream_; }
  Ops& ops() { return device_->ops(); }
  // Runs on the reference and waits.
  void reference(const std::function<void(Ops&, Stream&)>& work) {
    work(reference_->ops(), *reference_stream_);
    reference_stream_->synchronize();
  }

 private:
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Device> reference_;
  std::unique_ptr<Stream> reference_stream_;
  std::unique_ptr<BenchBytes> scratch_;
};

inline bool same_bits(const View& a, int64_t row_a, const View& b, int64_t row_b) {
  return a.cols == b.cols && std::memcmp(a.row(row_a), b.row(row_b), row_bytes(DType::f32, a.cols)) == 0;
}

class OpGrid : public testing::TestWithParam<Backend> {};

#define SPILLWAY_REQUIRE_OP(op) \
  if (!GetParam().has(OpKind::op)) GTEST_SKIP() << GetParam().name << " has no " #op

#define SPILLWAY_FOR_EVERY_BACKEND(suite) \
  INSTANTIATE_TEST_SUITE_P(All, suite, testing::ValuesIn(backends()), [](const auto& i) { return i.param.name; })

}  // namespace spillway
