// Operations that treat each row by itself, run by the emulation, against the reference in double.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/cuda_emulated.h"

namespace spillway {
namespace {

using CudaDequantizeTest = CudaEmulated;

TEST_F(CudaDequantizeTest, MatchesTheReferenceToTheBit) {
  for (const DType type : kWeightTypes) {
    const auto step = static_cast<uint64_t>(type == DType::f32 ? 4 : 2);
    for (const int64_t blocks : {1, 3, 18, 40}) {
      if (blocks * info(type).block_elements > 5000) continue;
      for (const Placing placing : {Placing{}, Placing{.offset = step, .gap = 3 * step}}) {
        const int64_t cols = blocks * info(type).block_elements;
        SCOPED_TRACE(testing::Message() << info(type).name << " x " << cols << " at " << placing.offset);
        DeviceMatrix rows = matrix(type, 3, cols, placing), out = matrix(DType::f32, 3, cols, {.offset = 4, .gap = 4});
        DeviceMatrix wanted = matrix(DType::f32, 3, cols);
        rows.fill(5).upload(stream_);
        reference_->ops().dequantize(*reference_stream_, rows.host(), wanted.host());
        reference_stream_->synchronize();
        const CudaDequantize arguments = {.rows = rows.device(), .out = out.device()};
        expect_fine(table_.dequantize(stream_, &arguments));
        out.download(stream_);
        EXPECT_TRUE(same_bits(out, 0, wanted, 0, 3));
      }
    }
  }
  DeviceMatrix none = matrix(DType::q4_0, 0, 64), out = matrix(DType::f32, 0, 64);
  const CudaDequantize arguments = {.rows = none.device(), .out = out.device()};
  expect_fine(table_.dequantize(stream_, &arguments));
}

class CudaActivateTest : public CudaEmulated {
 protected:
  enum class Out { apart, gate, up };

  void compare(int64_t rows, int64_t cols, Placing placing, Out where, double deviation = 3.0) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << " at " << placing.offset);
    DeviceMatrix gate = matrix(DType::f32, rows, cols, placing), up = matrix(DType::f32, rows, cols, placing);
    DeviceMatrix apart = matrix(DType::f32, rows, cols, placing), wanted = matrix(DType::f32, rows, cols);
    gate.fill(1, deviation).upload(stream_);
    up.fill(2).upload(stream_);
    reference_->ops().activate(*reference_stream_, Activation::silu, gate.host(), up.host(), wanted.host());
    reference_stream_->synchronize();
    DeviceMatrix& out = where == Out::apart ? apart : where == Out::gate ? gate : up;
    const CudaActivate arguments = {
        .kind = Activation::silu, .gate = gate.device(), .up = up.device(), .out = out.device()};
    expect_fine(table_.activate(stream_, &arguments));
    out.download(stream_);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < cols; c++) {
        ASSERT_NEAR(out.at(r, c), wanted.at(r, c), 5 * kEps * std::abs(wanted.at(r, c)) + 1e-35) << r << ", " << c;
      }
    }
  }
};

TEST_F(CudaActivateTest, MatchesTheReference) {
  for (const int64_t cols : {1, 3, 64, 513, 1536}) compare(3, cols, {}, Out::apart);
  compare(2, 130, {.offset = 4, .gap = 8}, Out::gate);
  compare(2, 128, {.offset = 0, .gap = 16}, Out::up);
  compare(1, 512, {}, Out::gate, 60.0);  // where the exponential is 0
  compare(0, 64, {}, Out::apart);
}

TEST_F(CudaActivateTest, KeepsWhatIsNotANumber) {
  DeviceMatrix gate = matrix(DType::f32, 1, 64), up = matrix(DType::f32, 1, 64);
  gate.fill(1);
  up.fill(2);
  gate.host().f32()[3] = up.host().f32()[9] = std::numeric_limits<float>::quiet_NaN();
  gate.upload(stream_);
  up.upload(stream_);
  const CudaActivate arguments = {
      .kind = Activation::silu, .gate = gate.device(), .up = up.device(), .out = gate.device()};
  expect_fine(table_.activate(stream_, &arguments));
  gate.download(stream_);
  for (int c = 0; c < 64; c++) EXPECT_EQ(std::isnan(gate.at(0, c)), c == 3 || c == 9);
}

}  // namespace
}  // namespace spillway
