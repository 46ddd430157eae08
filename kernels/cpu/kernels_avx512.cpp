// Kernels for AVX-512 with VNNI. Built with flags of its own: include nothing here that defines inline functions for
// the rest of the program.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes_avx512.inl"

namespace spillway {
namespace {
constexpr const char* kKernelsName = "AVX-512";
// Register tiles: 32 registers of 16 floats.
constexpr int kFloatTileM = 4;
constexpr int kFloatTileN = 4;
constexpr int kBroadcastRows = 6;
constexpr int kBroadcastCols = 4;
constexpr int kDotRows = 16;
}  // namespace
}  // namespace spillway

#include "kernels/cpu/attention.inl"
#include "kernels/cpu/float_kernels.inl"
#include "kernels/cpu/kernel_table.inl"
#include "kernels/cpu/quant_avx512.inl"

namespace spillway {

const CpuKernels& avx512_kernels() { return kKernels; }

}  // namespace spillway
