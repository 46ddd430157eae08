// Tensor cores, and copies into shared memory that go on while threads compute. Part of gpu.cuh, which includes it; the
// emulation has the same words (tests/support/cuda_emulation/tensor_cores.h).
//
// Fragments are those of the PTX ISA (9.7.14, "Matrix fragments for mma.m16n8k16 / .m16n8k32"). Lane l stands at
// g = l / 4, t = l % 4. D [16 x 8] += A [16 x k] . B [k x 8], a register holding 4 bytes of one row of A or one column
// of B, at k-bytes of 32 in all (32 codes of 8 bits, or 16 of 16):
//   a[0]: row g, bytes 4 t ..; a[1]: row g + 8, the same bytes; a[2], a[3]: rows g, g + 8, bytes 16 + 4 t ..
//   b[0]: column g, bytes 4 t ..; b[1]: column g, bytes 16 + 4 t ..
//   c[0], c[1]: row g, columns 2 t, 2 t + 1; c[2], c[3]: row g + 8, the same columns.
// So load_matrices gives a[0 .. 3] of a row-major A and b[0], b[1] of two tiles of B whose columns lie contiguously.
//
// What compute capability 7.5 lacks is put together from what it has: the shorter products, and plain copies. mma_bf16
// it cannot do at all; the launcher goes another way.
#pragma once

namespace spillway::cuda {

__device__ __forceinline__ uint32_t shared_address(const uint32_t* word) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(word));
}

// 16 bytes of shared memory at once; `word` is a multiple of 4.
__device__ __forceinline__ uint4 load_words(Shared<uint32_t> words, int word) {
  return *reinterpret_cast<const uint4*>(words + word);
}

// 8 bytes; `word` is a multiple of 2.
__device__ __forceinline__ uint2 load_pair(Shared<uint32_t> words, int word) {
  return *reinterpret_cast<const uint2*>(words + word);
}

// Starts a copy of kBytes (4, 8 or 16, source and destination aligned to as many) into shared memory. The first
// `bytes` are read, the rest become zero. They are there for this thread after wait_for_copies, for others after a
// barrier behind that.
template <int kBytes>
__device__ __forceinline__ void copy_async(Shared<uint32_t> words, int word, const void* source, int bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if __CUDA_ARCH__ >= 800
  const uint32_t destination = shared_address(words + word);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source), "n"(kBytes),
                 "r"(bytes)
                 : "memory");
  }
#else
  uint4 held = {0, 0, 0, 0};
  if (kBytes == 16 && bytes == 16) {
    held = load_cached(source);
  } else {
    const unsigned char* from = static_cast<const unsigned char*>(source);
    uint32_t words_of[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kBytes; i++) {
      if (i < bytes) words_of[i / 4] |= static_cast<uint32_t>(from[i]) << i % 4 * 8;
    }
    held = {words_of[0], words_of[1], words_of[2], words_of[3]};
  }
  if constexpr (kBytes == 16) {
    store_words(words, word, held);
  } else {
    words[word] = held.x;
    if (kBytes == 8) words[word + 1] = held.y;
  }
#endif
}

// Closes a group: the copies that this thread started since the last one.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements. Lane l names row l % 8 of matrix l / 8, by the word it begins at (a multiple
// of 4), and gets bytes 4 t .. of row g of each.
__device__ __forceinline__ void load_matrices(uint32_t (&matrices)[4], Shared<uint32_t> words, int word) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(words + word))
               : "memory");
}

// The same matrices transposed: rows 2 t and 2 t + 1 of column g.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&matrices)[4], Shared<uint32_t> words, int word) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(words + word))
               : "memory");
}

// Signed bytes, 32-bit sums, k = 32.
__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
  for (int i = 0; i < 4; i++) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[i % 2 * 2]), "+r"(c[i % 2 * 2 + 1])
                 : "r"(a[i]), "r"(i < 2 ? b0 : b1));
  }
#endif
}

// Halves with 32-bit sums, k = 16. Products are exact; their sum with c is rounded once, towards zero as a rule (the
// hardware's own order and width, which no document gives).
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half == 0 ? b0 : b1));
  }
#endif
}

// bfloat16 as mma_f16; from compute capability 8.0 on.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

// Two floats to two halves (round to nearest even), the first in the low one.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  uint16_t low_bits, high_bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low_bits) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high_bits) : "f"(high));
  return low_bits | static_cast<uint32_t>(high_bits) << 16;
#endif
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return f32_to_bf16(low) | static_cast<uint32_t>(f32_to_bf16(high)) << 16;
#endif
}

}  // namespace spillway::cuda
