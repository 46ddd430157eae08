// What the program says when there is no CUDA module, or a wrong one.
#include "kernels/cuda_module.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace spillway {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

void expect_refused(const CudaModule& module, const std::string& why) {
  EXPECT_EQ(module.table(), nullptr);
  EXPECT_EQ(module.devices(), 0);
  EXPECT_THAT(module.report(), StartsWith("no CUDA device: "));
  EXPECT_THAT(module.report(), HasSubstr(why));
  EXPECT_EQ(module.report().find('\n'), std::string::npos);
}

TEST(CudaModule, IsLookedForBesideTheProgramAndInItsLibraryFolder) {
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe");
  const std::vector<std::string> files = CudaModule::candidates("");
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0], program.parent_path() / "spillway_cuda.so");
  EXPECT_EQ(files[1], program.parent_path().parent_path() / "lib/spillway/spillway_cuda.so");
  EXPECT_EQ(CudaModule::candidates("elsewhere/x.so"), std::vector<std::string>{"elsewhere/x.so"});
}

TEST(CudaModule, ThatIsMissingIsReported) {
  const CudaModule module("/nonexistent/spillway_cuda.so");
  expect_refused(module, "there is no CUDA module at /nonexistent/spillway_cuda.so");
}

TEST(CudaModule, ThatIsNoLibraryIsReported) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "no_library.so";
  std::ofstream(file) << "text";
  expect_refused(CudaModule(file), "cannot be opened");
  std::filesystem::remove(file);
}

TEST(CudaModule, OfAnotherProgramIsReported) {
  expect_refused(CudaModule(FOREIGN_MODULE), "is no CUDA module of Spillway");
}

TEST(CudaModule, OfAnotherVersionIsReported) {
  const CudaModule module(OTHER_VERSION_MODULE);
  expect_refused(module, "is of version 4294967295");
  EXPECT_THAT(module.report(), EndsWith("bytes)"));
}

TEST(CudaModule, WithoutDriverOrGpuItsReasonIsPassedOn) {
  const CudaModule module(NO_DRIVER_MODULE);
  EXPECT_NE(module.table(), nullptr);
  EXPECT_EQ(module.devices(), 0);
  EXPECT_EQ(module.report(), "no CUDA device: the driver's own words");
}

TEST(CudaModule, ItsDevicesAreNamed) {
  const CudaModule module(TWO_DEVICES_MODULE);
  EXPECT_EQ(module.devices(), 2);
  EXPECT_EQ(module.report(),
            "cuda:0 device 0, 8.0 GiB, compute capability 8.9; cuda:1 device 1, 8.0 GiB, compute capability 8.9");
}

}  // namespace
}  // namespace spillway
