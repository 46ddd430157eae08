// Tensor cores and asynchronous copies of the emulation: the layouts of the PTX ISA against plain products, and the
// mistakes that must be found. The kernels in the second half are wrong on purpose, each in one way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/module.h"
#include "tests/support/device_matrix.h"

namespace spillway::cuda {
namespace {

constexpr int kRows = 16, kCols = 8;

class CudaTensorCores : public testing::Test {
 protected:
  void SetUp() override {
    emulation::restart(1);
    expect_fine(table_.make_stream(&stream_));
  }
  void TearDown() override { emulation::abandon(); }

  template <typename... Parameters, typename... Arguments>
  std::string run(void (*kernel)(Parameters...), int threads, Arguments... arguments) {
    launch(kernel, dim3(1), dim3(static_cast<uint32_t>(threads)), 0, static_cast<cudaStream_t>(stream_), arguments...);
    try {
      table_.synchronize(stream_);
    } catch (const emulation::Fault& fault) {
      return fault.what();
    }
    return "no fault";
  }
  // Values that pinned memory holds; kernels may read and write them.
  template <typename T>
  T* values(int count, const std::function<T(int)>& value) {
    void* block = nullptr;
    expect_fine(table_.reserve_host(count * sizeof(T), &block));
    for (int i = 0; i < count; i++) static_cast<T*>(block)[i] = value(i);
    return static_cast<T*>(block);
  }

  const SpillwayCudaTable& table_ = *spillway_cuda_table();
  CudaStream stream_ = nullptr;
};

MATCHER_P(Says, what, "") { return arg.find(what) != std::string::npos; }

// ---- layouts, spelled out element by element as the PTX ISA does

template <typename Element, typename Sum,
          void (*kProduct)(Sum (&)[4], const uint32_t (&)[4], uint32_t, uint32_t, const std::source_location&)>
__global__ void product(const Element* a, const Element* b, Sum* c) {
  constexpr int kDepth = 32 / sizeof(Element), kEach = 4 / sizeof(Element);
  const int group = lane_index() / 4, in_group = lane_index() % 4;
  uint32_t a_words[4] = {}, b_words[2] = {};
  const auto place = [](uint32_t& word, int i, Element value) {
    word |= static_cast<uint32_t>(std::make_unsigned_t<Element>(value)) << 8 * sizeof(Element) * (i % kEach);
  };
  for (int i = 0; i < 4 * kEach; i++) {
    const int row = i / kEach % 2 == 0 ? group : group + 8;
    const int col = in_group * kEach + i % kEach + (i >= 2 * kEach ? kDepth / 2 : 0);
    place(a_words[i / kEach], i, a[row * kDepth + col]);
  }
  for (int i = 0; i < 2 * kEach; i++) {
    const int row = in_group * kEach + i % kEach + (i >= kEach ? kDepth / 2 : 0);
    place(b_words[i / kEach], i, b[row * kCols + group]);
  }
  Sum sums[4];
  for (int i = 0; i < 4; i++) sums[i] = c[(i < 2 ? group : group + 8) * kCols + in_group * 2 + i % 2];
  kProduct(sums, a_words, b_words[0], b_words[1], std::source_location::current());
  for (int i = 0; i < 4; i++) c[(i < 2 ? group : group + 8) * kCols + in_group * 2 + i % 2] = sums[i];
}

TEST_F(CudaTensorCores, ProductsOfBytesAreExact) {
  constexpr int kDepth = 32;
  RandomBits random(3);
  const auto any = [&](int) { return static_cast<int8_t>(random.next()); };
  const int8_t* a = values<int8_t>(kRows * kDepth, any);
  const int8_t* b = values<int8_t>(kDepth * kCols, any);
  int* c = values<int>(kRows * kCols, [](int i) { return 1000 * i; });
  ASSERT_EQ(run(product<int8_t, int, mma_s8>, 32, a, b, c), "no fault");
  for (int row = 0; row < kRows; row++) {
    for (int col = 0; col < kCols; col++) {
      int sum = 1000 * (row * kCols + col);
      for (int k = 0; k < kDepth; k++) sum += a[row * kDepth + k] * b[k * kCols + col];
      EXPECT_EQ(c[row * kCols + col], sum) << row << ", " << col;
    }
  }
}

template <typename Product>
void expect_product(CudaTensorCores&, const Product& product_of, float (*element)(uint16_t)) {
  constexpr int kDepth = 16;
  const auto [a, b, c] = product_of();
  for (int row = 0; row < kRows; row++) {
    for (int col = 0; col < kCols; col++) {
      double sum = 0.25, magnitude = 0.25;
      for (int k = 0; k < kDepth; k++) {
        const double term = static_cast<double>(element(a[row * kDepth + k])) * element(b[k * kCols + col]);
        sum += term;
        magnitude += std::abs(term);
      }
      EXPECT_NEAR(c[row * kCols + col], sum, 0x1p-23 * magnitude) << row << ", " << col;
    }
  }
}

TEST_F(CudaTensorCores, ProductsOfHalvesAreRoundedOnce) {
  RandomBits random(4);
  const auto some = [&](int) { return static_cast<float>(random.next() % 4096) / 1024.0f - 2.0f; };
  struct Operands {
    uint16_t *a, *b;
    float* c;
  };
  const auto operands = [&](uint16_t (*bits)(float)) {
    const auto element = [&](int i) { return bits(some(i)); };
    return Operands{values<uint16_t>(kRows * 16, element), values<uint16_t>(16 * kCols, element),
                    values<float>(kRows * kCols, [](int) { return 0.25f; })};
  };
  const Operands halves = operands(f32_to_f16), bfloats = operands(f32_to_bf16);
  ASSERT_EQ(run(product<uint16_t, float, mma_f16>, 32, halves.a, halves.b, halves.c), "no fault");
  expect_product(
      *this, [&] { return halves; }, f16_to_f32);
  ASSERT_EQ(run(product<uint16_t, float, mma_bf16>, 32, bfloats.a, bfloats.b, bfloats.c), "no fault");
  expect_product(
      *this, [&] { return bfloats; }, bf16_to_f32);
}

__global__ void matrices(uint32_t* plain, uint32_t* transposed) {
  SPILLWAY_SHARED(uint32_t, words,
                  4 * 8 * 8);  // rows 32 bytes apart; 16-bit element: 1000 * matrix + 10 * row + column
  const int row = lane_index() % 8, matrix = lane_index() / 8;
  const int word = (matrix * 8 + row) * 8;
  for (int i = 0; i < 4; i++) {
    const auto element = [&](int col) { return static_cast<uint32_t>(1000 * matrix + 10 * row + col); };
    words[word + i] = element(2 * i) | element(2 * i + 1) << 16;
  }
  __syncwarp();
  uint32_t got[4];
  load_matrices(got, words, word);
  for (int i = 0; i < 4; i++) plain[lane_index() * 4 + i] = got[i];
  load_matrices_transposed(got, words, word);
  for (int i = 0; i < 4; i++) transposed[lane_index() * 4 + i] = got[i];
}

TEST_F(CudaTensorCores, MatricesAreDealtOut) {
  uint32_t* plain = values<uint32_t>(128, [](int) { return 0; });
  uint32_t* transposed = values<uint32_t>(128, [](int) { return 0; });
  ASSERT_EQ(run(matrices, 32, plain, transposed), "no fault");
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 8; i++) {
      const int matrix = i / 2, along = 2 * (lane % 4) + i % 2;
      EXPECT_EQ(plain[lane * 4 + matrix] >> i % 2 * 16 & 0xffff, 1000 * matrix + 10 * (lane / 4) + along);
      EXPECT_EQ(transposed[lane * 4 + matrix] >> i % 2 * 16 & 0xffff, 1000 * matrix + 10 * along + lane / 4);
    }
  }
}

TEST_F(CudaTensorCores, ConversionsAreExact) {
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) != 0x7c00) {
      EXPECT_EQ(pack_f16(f16_to_f32(half), 1.0f), 0x3c000000u | half);
    }
    if ((half & 0x7f80) != 0x7f80) {
      EXPECT_EQ(pack_bf16(1.0f, bf16_to_f32(half)), bits << 16 | 0x3f80u);
    }
  }
  EXPECT_EQ(pack_f16(2049.0f, -65520.0f), 0xfc006800u);  // ties to even; past the largest
}

// ---- copies that take their time

__global__ void copy_through_shared(uint32_t* in, uint32_t* out) {
  SPILLWAY_SHARED(uint32_t, words, 4 * 64);
  const int thread = static_cast<int>(threadIdx.x);
  copy_async<16>(words, 4 * thread, in + 4 * thread, thread == 5 ? 6 : 16);
  commit_copies();
  if (thread == 0) in[0] = 77;  // before the wait: nothing has landed
  wait_for_copies<0>();
  __syncthreads();
  const int other = 63 - thread;
  for (int i = 0; i < 4; i++) out[4 * other + i] = words[4 * other + i];
}

__global__ void the_newest_may_be_under_way(uint32_t* in, uint32_t* out) {
  SPILLWAY_SHARED(uint32_t, words, 4);
  if (threadIdx.x != 0) return;
  copy_async<4>(words, 0, in);
  commit_copies();
  copy_async<8>(words, 2, in + 2);
  commit_copies();
  wait_for_copies<1>();
  out[0] = words[0];
  wait_for_copies<0>();
  out[1] = words[3];
}

TEST_F(CudaTensorCores, CopiesLandWhenTheyAreWaitedFor) {
  uint32_t* in = values<uint32_t>(256, [](int i) { return 0x01010101u * static_cast<uint32_t>(i); });
  uint32_t* out = values<uint32_t>(256, [](int) { return 0; });
  ASSERT_EQ(run(copy_through_shared, 64, in, out), "no fault");
  for (int i = 1; i < 256; i++) {
    const uint32_t value = 0x01010101u * static_cast<uint32_t>(i);
    EXPECT_EQ(out[i], i == 21 ? value & 0xffff : i == 22 || i == 23 ? 0 : value) << i;
  }
  EXPECT_EQ(out[0], 77u);
  ASSERT_EQ(run(the_newest_may_be_under_way, 32, in, out), "no fault");
  EXPECT_EQ(out[0], 77u);
  EXPECT_EQ(out[1], 0x03030303u);
}

// Each thread copies a word; then whatever the mistake is.
template <typename Then>
__device__ void after_a_copy(const uint32_t* in, const Then& then) {
  SPILLWAY_SHARED(uint32_t, words, 64);
  const int thread = static_cast<int>(threadIdx.x);
  words[thread] = 0;
  __syncthreads();
  copy_async<4>(words, thread, in + thread);
  commit_copies();
  then(words, thread);
}

__global__ void no_wait(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) { out[thread] = words[thread]; });
}
__global__ void barrier_for_a_wait(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) {
    __syncthreads();
    out[thread] = words[63 - thread];
  });
}
__global__ void wait_for_another_group(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) {
    wait_for_copies<1>();
    out[thread] = words[thread];
  });
}
__global__ void no_commit(uint32_t* in, uint32_t* out) {
  SPILLWAY_SHARED(uint32_t, words, 64);
  copy_async<4>(words, static_cast<int>(threadIdx.x), in);
  wait_for_copies<0>();
  out[threadIdx.x] = words[static_cast<int>(threadIdx.x)];
}
__global__ void write_under_a_copy(uint32_t* in, uint32_t*) {
  after_a_copy(in, [&](auto words, int thread) { words[thread] = 1; });
}
__global__ void no_barrier_after_the_wait(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) {
    wait_for_copies<0>();
    out[thread] = words[63 - thread];
  });
}
__global__ void no_barrier_before_matrices(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) {
    wait_for_copies<0>();
    uint32_t got[4];
    load_matrices(got, words, thread % 16 * 4);
    out[thread] = got[0];
  });
}
__global__ void copy_over_what_is_read(uint32_t* in, uint32_t* out) {
  after_a_copy(in, [&](auto words, int thread) {
    wait_for_copies<0>();
    __syncthreads();
    out[thread] = words[63 - thread];
    copy_async<4>(words, thread, in);
  });
}
__global__ void misaligned_copy(uint32_t* in, uint32_t*) {
  SPILLWAY_SHARED(uint32_t, words, 64);
  copy_async<16>(words, 0, in + 1);
}

TEST_F(CudaTensorCores, FindsAForgottenWait) {
  uint32_t* in = values<uint32_t>(64, [](int i) { return static_cast<uint32_t>(i); });
  uint32_t* out = values<uint32_t>(64, [](int) { return 0; });
  EXPECT_THAT(run(no_wait, 64, in, out), Says("nobody has waited for it"));
  EXPECT_THAT(run(barrier_for_a_wait, 64, in, out), Says("nobody has waited for it"));
  EXPECT_THAT(run(wait_for_another_group, 64, in, out), Says("nobody has waited for it"));
  EXPECT_THAT(run(no_commit, 64, in, out), Says("nobody has waited for it"));
  EXPECT_THAT(run(write_under_a_copy, 64, in, out), Says("nobody has waited for it"));
}

TEST_F(CudaTensorCores, FindsAMissingBarrier) {
  uint32_t* in = values<uint32_t>(64, [](int i) { return static_cast<uint32_t>(i); });
  uint32_t* out = values<uint32_t>(64, [](int) { return 0; });
  // Whichever of the two threads happened to come first.
  const auto unordered = testing::AnyOf(Says("no barrier between"), Says("nobody has waited for it"));
  EXPECT_THAT(run(no_barrier_after_the_wait, 64, in, out), unordered);
  EXPECT_THAT(run(no_barrier_before_matrices, 64, in, out), Says("no barrier between"));
  EXPECT_THAT(run(copy_over_what_is_read, 64, in, out), unordered);
  EXPECT_THAT(run(misaligned_copy, 1, in, out), Says("not aligned"));
}

__global__ void product_for_some(uint32_t*) {
  int c[4] = {};
  const uint32_t a[4] = {};
  if (lane_index() < 31) mma_s8(c, a, 0, 0);
}
__global__ void two_products(uint32_t*) {
  int c[4] = {};
  float f[4] = {};
  const uint32_t a[4] = {};
  if (lane_index() % 2 == 0) {
    mma_s8(c, a, 0, 0);
  } else {
    mma_f16(f, a, 0, 0);
  }
}
__global__ void half_a_warp(uint32_t*) {
  int c[4] = {};
  const uint32_t a[4] = {};
  mma_s8(c, a, 0, 0);
}

TEST_F(CudaTensorCores, FindsLanesThatDoNotMeet) {
  uint32_t* out = values<uint32_t>(1, [](int) { return 0; });
  EXPECT_THAT(run(product_for_some, 32, out), Says("which has returned"));
  EXPECT_THAT(run(two_products, 32, out), Says("a product of matrices"));
  EXPECT_THAT(run(half_a_warp, 16, out), Says("no lane that is not there"));
}

}  // namespace
}  // namespace spillway::cuda
