// Kernels in plain C++, for machines with nothing wider and as a second opinion in tests.
// Each builds on those before it.
// clang-format off
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes_scalar.inl"
#include "kernels/cpu/float_kernels.inl"
#include "kernels/cpu/float_product.inl"
#include "kernels/cpu/packed_page.inl"
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/key_scores.inl"
#include "kernels/cpu/bound_scores.inl"
#include "kernels/cpu/rows_scalar.inl"
#include "kernels/cpu/quant_formats.inl"
#include "kernels/cpu/quant_scalar.inl"
#include "kernels/cpu/kernel_table.inl"
// clang-format on

namespace spillway {

const CpuKernels& scalar_kernels() { return kKernels; }

}  // namespace spillway
