// Kernels in plain C++, for machines with nothing wider and as a second opinion in tests.
// clang-format off: each builds on those before it
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/float_kernels.inl"
#include "kernels/cpu/kernel_table.inl"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes_scalar.inl"
#include "kernels/cpu/quant_scalar.inl"
// clang-format on

namespace spillway {

const CpuKernels& scalar_kernels() { return kKernels; }

}  // namespace spillway
