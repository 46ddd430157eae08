// A test of the CUDA kernels under emulation: a table, a stream, and the reference to compare with.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "kernels/backend.h"
#include "tests/support/cuda_emulation/runtime.h"
#include "tests/support/device_matrix.h"

namespace spillway {

class CudaEmulated : public testing::Test {
 protected:
  void SetUp() override {
    emulation::restart(1);
    expect_fine(table_.make_stream(&stream_));
  }
  void TearDown() override {
    expect_fine(table_.synchronize(stream_));
    expect_fine(table_.end_stream(stream_));
  }

  DeviceMatrix matrix(DType type, int64_t rows, int64_t cols, Placing placing = {}) {
    return DeviceMatrix(table_, type, rows, cols, placing);
  }

  const SpillwayCudaTable& table_ = *spillway_cuda_table();
  CudaStream stream_ = nullptr;
  std::unique_ptr<Device> reference_ = make_reference_device();
  std::unique_ptr<Stream> reference_stream_ = reference_->make_compute_stream("reference");
};

}  // namespace spillway
