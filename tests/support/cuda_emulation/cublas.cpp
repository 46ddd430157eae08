// A loop in the place of cuBLAS, under its names and with its arguments: halves in, halves out, sums in float.
#include <cstring>
#include <string_view>

#include "kernels/blocks.h"
#include "tests/support/cuda_emulation/fault.h"
#include "tests/support/cuda_emulation/runtime.h"

namespace spillway::emulation {
namespace {

FakeCublas present = FakeCublas::right;

struct Handle {
  cudaStream_t stream = nullptr;
};

int create(void** handle) {
  *handle = new Handle;
  return 0;
}

int destroy(void* handle) {
  delete static_cast<Handle*>(handle);
  return 0;
}

int set_stream(void* handle, cudaStream_t stream) {
  static_cast<Handle*>(handle)->stream = stream;
  return 0;
}

// C [m x n] = A^T [k x m]^T . B [k x n], columns after columns.
int product(void* handle, int a_form, int b_form, int m, int n, int k, const void* alpha, const void* a, int a_type,
            int a_stride, const void* b, int b_type, int b_stride, const void* beta, void* c, int c_type, int c_stride,
            int compute_type, int) {
  float alpha_value = 0.0f, beta_value = 1.0f;
  std::memcpy(&alpha_value, alpha, sizeof alpha_value);
  std::memcpy(&beta_value, beta, sizeof beta_value);
  constexpr int kF16 = 2, kComputeF32 = 68, kInvalidValue = 7;
  if (a_form != 1 || b_form != 0 || a_type != kF16 || b_type != kF16 || c_type != kF16) return kInvalidValue;
  if (compute_type != kComputeF32 || alpha_value != 1.0f || beta_value != 0.0f) return kInvalidValue;
  const auto bytes = [](int columns, int stride) { return static_cast<size_t>(columns) * stride * sizeof(uint16_t); };
  check_addressable(a, bytes(m, a_stride));
  check_addressable(b, bytes(n, b_stride));
  check_addressable(c, bytes(n, c_stride));
  const bool wrong = present == FakeCublas::wrong;
  enqueue_work(static_cast<Handle*>(handle)->stream, [=] {
    const auto* left = static_cast<const uint16_t*>(a);
    const auto* right = static_cast<const uint16_t*>(b);
    for (int64_t col = 0; col < n; col++) {
      for (int64_t row = 0; row < m; row++) {
        float sum = wrong ? 1e3f : 0.0f;
        for (int64_t i = 0; i < k; i++)
          sum += f16_to_f32(left[row * a_stride + i]) * f16_to_f32(right[col * b_stride + i]);
        static_cast<uint16_t*>(c)[col * c_stride + row] = f32_to_f16(sum);
      }
    }
  });
  return 0;
}

}  // namespace

void set_cublas(FakeCublas cublas) { present = cublas; }

void* open_library(const char* name) {
  return std::string_view(name).starts_with("libcublas.so") && present != FakeCublas::none ? &present : nullptr;
}

void* find_symbol(void*, const char* name) {
  const std::string_view wanted(name);
  if (wanted == "cublasCreate_v2") return reinterpret_cast<void*>(create);
  if (wanted == "cublasDestroy_v2") return reinterpret_cast<void*>(destroy);
  if (wanted == "cublasSetStream_v2") return reinterpret_cast<void*>(set_stream);
  if (wanted == "cublasGemmEx") return reinterpret_cast<void*>(product);
  return nullptr;
}

}  // namespace spillway::emulation
