// The measured peak of matrix products: cuBLAS is asked as it wants to be, and what it lacks is said.
#include <gmock/gmock.h>

#include "tests/kernels/cuda_emulated.h"

namespace spillway {
namespace {

class CudaProductSpeed : public CudaEmulated {
 protected:
  void TearDown() override {
    emulation::set_cublas(emulation::FakeCublas::right);
    CudaEmulated::TearDown();
  }
  // What is said, and a speed only where nothing is.
  std::string said(int32_t size) {
    double flops = -1.0;
    const CudaProblem problem = table_.product_speed(size, &flops);
    EXPECT_EQ(flops > 0.0, problem == nullptr);
    return problem == nullptr ? "" : problem;
  }
};

TEST_F(CudaProductSpeed, IsOfARightProduct) {
  for (const int32_t size : {8, 33, 64}) EXPECT_EQ(said(size), "");
  if (testing_a_gpu()) return;
  emulation::set_cublas(emulation::FakeCublas::wrong);
  EXPECT_EQ(said(16), "cuBLAS gave a wrong product");
}

TEST_F(CudaProductSpeed, WithoutTheLibraryItIsSaid) {
  if (testing_a_gpu()) GTEST_SKIP() << "a GPU's library cannot be taken away";
  emulation::set_cublas(emulation::FakeCublas::none);
  EXPECT_THAT(said(16), testing::HasSubstr("cuBLAS is not installed"));
}

}  // namespace
}  // namespace spillway
