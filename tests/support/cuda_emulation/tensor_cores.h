// The words of kernels/cuda/tensor_cores.cuh, for the emulation: products and loads of matrices by all lanes of a warp
// together, and copies that land no earlier than somebody waits for them. Lanes that do not come along are a fault.
//
// Sums of 32-bit integers are exact, so their bits are the GPU's. Of the sums in floating point only the accuracy is:
// here the products and c are added exactly and rounded once, towards zero.
#pragma once

#include <cstdint>
#include <source_location>

#include "kernels/blocks.h"
#include "tests/support/cuda_emulation/block.h"

namespace spillway::emulation {

struct MatrixRow {
  uint32_t words[4];  // the row that this lane names
  uint32_t result[4];
};

template <typename Sum>
struct MatrixProduct {
  Sum* c;  // 4
  const uint32_t* a;
  uint32_t b[2];
};

// lanes[32]: what each brought, of the type that goes with the verb.
void compute_collective(WarpVerb verb, void* const* lanes);

template <int kBytes>
void copy_async(const Shared<uint32_t>& words, int word, const void* source, int bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  Block::current().copy_async(words.array(), words.byte_of(word), source, kBytes, static_cast<size_t>(bytes));
}
inline void commit_copies() { Block::current().commit_copies(); }
template <int kPending>
void wait_for_copies() {
  Block::current().wait_for_copies(kPending);
}

inline void gather_matrices(WarpVerb verb, uint32_t (&matrices)[4], const Shared<uint32_t>& words, int word,
                            const std::source_location& where) {
  struct alignas(16) Row {
    uint32_t words[4];
  };
  const Row row = words.read_wide<Row>(word);
  MatrixRow mine{};
  std::memcpy(mine.words, row.words, sizeof mine.words);
  Block::current().collective(verb, &mine, where);
  std::memcpy(matrices, mine.result, sizeof mine.result);
}
inline void load_matrices(uint32_t (&matrices)[4], const Shared<uint32_t>& words, int word,
                          const std::source_location& where = std::source_location::current()) {
  gather_matrices(WarpVerb::load_matrices, matrices, words, word, where);
}
inline void load_matrices_transposed(uint32_t (&matrices)[4], const Shared<uint32_t>& words, int word,
                                     const std::source_location& where = std::source_location::current()) {
  gather_matrices(WarpVerb::load_matrices_transposed, matrices, words, word, where);
}

template <typename Sum>
void multiply_matrices(WarpVerb verb, Sum (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const std::source_location& where) {
  MatrixProduct<Sum> mine{c, a, {b0, b1}};
  Block::current().collective(verb, &mine, where);
}
inline void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                   const std::source_location& where = std::source_location::current()) {
  multiply_matrices(WarpVerb::mma_s8, c, a, b0, b1, where);
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                    const std::source_location& where = std::source_location::current()) {
  multiply_matrices(WarpVerb::mma_f16, c, a, b0, b1, where);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     const std::source_location& where = std::source_location::current()) {
  multiply_matrices(WarpVerb::mma_bf16, c, a, b0, b1, where);
}

inline uint32_t pack_f16(float low, float high) {
  return f32_to_f16(low) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
inline uint32_t pack_bf16(float low, float high) {
  return f32_to_bf16(low) | static_cast<uint32_t>(f32_to_bf16(high)) << 16;
}

}  // namespace spillway::emulation
