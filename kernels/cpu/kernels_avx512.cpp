// Kernels for AVX-512 with VNNI. Built with flags of its own: include nothing here that defines inline functions for
// the rest of the program.
// Each builds on those before it.
// clang-format off
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes_avx512.inl"
#include "kernels/cpu/float_kernels.inl"
#include "kernels/cpu/float_product.inl"
#include "kernels/cpu/packed_page.inl"
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/key_scores.inl"
#include "kernels/cpu/bound_scores.inl"
#include "kernels/cpu/rows_avx512.inl"
#include "kernels/cpu/quant_formats.inl"
#include "kernels/cpu/quant_avx512.inl"
#include "kernels/cpu/kernel_table.inl"
// clang-format on

namespace spillway {

const CpuKernels& avx512_kernels() { return kKernels; }

}  // namespace spillway
