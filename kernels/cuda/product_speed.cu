// Speed of one large product of matrices by cuBLAS: the limit that the products of a prefill stand beside. cuBLAS is
// opened when it is first asked for and never linked; no result of a model comes from it, since it chooses its order of
// addition by the shape of the call, and the rows of a matrix are cut by the budget.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kRounds = 9;
constexpr int kProductsOfRound = 2;

// What is called of cublas_api.h, which a machine that only runs the module need not have. All functions return a
// status, 0 where they succeed.
constexpr int kTransposed = 1, kPlain = 0;           // cublasOperation_t
constexpr int kF16 = 2;                              // cudaDataType
constexpr int kComputeF32 = 68, kAnyAlgorithm = -1;  // cublasComputeType_t, cublasGemmAlgo_t
struct Cublas {
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*set_stream)(void* handle, cudaStream_t stream);
  int (*product)(void* handle, int a_form, int b_form, int m, int n, int k, const void* alpha, const void* a,
                 int a_type, int a_stride, const void* b, int b_type, int b_stride, const void* beta, void* c,
                 int c_type, int c_stride, int compute_type, int algorithm);
};

// All null where it is not installed. The library stays open for the rest of the process.
Cublas open_cublas() {
  void* library = nullptr;
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11"}) {
    if (library == nullptr) library = open_library(name);
  }
  Cublas found = {};
  if (library == nullptr) return found;
  found.create = reinterpret_cast<decltype(found.create)>(find_symbol(library, "cublasCreate_v2"));
  found.destroy = reinterpret_cast<decltype(found.destroy)>(find_symbol(library, "cublasDestroy_v2"));
  found.set_stream = reinterpret_cast<decltype(found.set_stream)>(find_symbol(library, "cublasSetStream_v2"));
  found.product = reinterpret_cast<decltype(found.product)>(find_symbol(library, "cublasGemmEx"));
  return found;
}

// Element i of matrix `which`: of [1, 2), in no order, for which a product takes the power it takes with real numbers.
__host__ __device__ __forceinline__ uint16_t element_bits(uint32_t which, uint32_t i) {
  uint32_t hash = (i + which * 0x9e3779b9u) * 0x85ebca6bu;
  hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
  return static_cast<uint16_t>(0x3c00u | hash >> 22);
}

constexpr int kFillThreads = 256;
__global__ void __launch_bounds__(kFillThreads) fill_matrix(uint16_t* out, uint32_t which, int size) {
  const int col = static_cast<int>(blockIdx.x * kFillThreads + threadIdx.x);
  if (col >= size) return;
  const uint32_t i = blockIdx.y * static_cast<uint32_t>(size) + static_cast<uint32_t>(col);
  out[i] = element_bits(which, i);
}

// Device memory, a stream and a handle for the time of one measurement.
struct Bench {
  explicit Bench(const Cublas& library) : library_(library) {}
  ~Bench() {
    if (handle != nullptr) library_.destroy(handle);
    if (stream != nullptr) cudaStreamDestroy(stream);
    if (matrices != nullptr) cudaFree(matrices);
    if (seen != nullptr) cudaFreeHost(seen);
  }
  Bench(const Bench&) = delete;

  cudaError_t prepare(int size) {
    const size_t elements = static_cast<size_t>(size) * size;
    cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&matrices), 3 * elements * sizeof(uint16_t));
    if (error == cudaSuccess) error = cudaHostAlloc(reinterpret_cast<void**>(&seen), sizeof(uint16_t), 0);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    const dim3 grid(static_cast<uint32_t>(ceil_div(size, kFillThreads)), static_cast<uint32_t>(size));
    for (uint32_t which = 0; which < 2 && error == cudaSuccess; which++) {
      error = launch(fill_matrix, grid, dim3(kFillThreads), 0, stream, matrices + which * elements, which, size);
    }
    return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
  }

  // Seconds of one product, or 0 where cuBLAS refuses.
  double round(int size) {
    const size_t elements = static_cast<size_t>(size) * size;
    const float one = 1.0f, zero = 0.0f;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kProductsOfRound; i++) {
      const int status = library_.product(handle, kTransposed, kPlain, size, size, size, &one, matrices, kF16, size,
                                          matrices + elements, kF16, size, &zero, matrices + 2 * elements, kF16, size,
                                          kComputeF32, kAnyAlgorithm);
      if (status != 0) return 0.0;
    }
    if (cudaStreamSynchronize(stream) != cudaSuccess) return 0.0;
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kProductsOfRound;
  }

  // Whether the first element is the product of the first rows.
  bool right(int size) {
    const size_t elements = static_cast<size_t>(size) * size;
    if (cudaMemcpyAsync(seen, matrices + 2 * elements, sizeof(uint16_t), cudaMemcpyDefault, stream) != cudaSuccess ||
        cudaStreamSynchronize(stream) != cudaSuccess) {
      return false;
    }
    double sum = 0.0;
    for (uint32_t k = 0; k < static_cast<uint32_t>(size); k++) {
      sum += static_cast<double>(f16_to_f32(element_bits(0, k))) * f16_to_f32(element_bits(1, k));
    }
    return std::abs(f16_to_f32(*seen) - sum) <= 2e-3 * sum;
  }

  uint16_t* matrices = nullptr;  // a, b and their product
  uint16_t* seen = nullptr;
  cudaStream_t stream = nullptr;
  void* handle = nullptr;

 private:
  const Cublas& library_;
};

}  // namespace

CudaProblem product_speed(int32_t size, double* flops) {
  *flops = 0.0;
  const Cublas library = open_cublas();
  if (!library.create || !library.destroy || !library.set_stream || !library.product) {
    return "cuBLAS is not installed (libcublas.so.13, .12 or .11)";
  }
  Bench bench(library);
  if (const cudaError_t error = bench.prepare(size); error != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(error);
  }
  if (library.create(&bench.handle) != 0) return "cuBLAS found no device, or no memory for itself";
  if (library.set_stream(bench.handle, bench.stream) != 0) return "cuBLAS refuses the stream";
  std::vector<double> seconds;
  for (int i = -1; i < kRounds; i++) {
    const double taken = bench.round(size);
    if (taken <= 0.0) return "cuBLAS refuses the product";
    if (i >= 0) seconds.push_back(taken);
  }
  if (!bench.right(size)) return "cuBLAS gave a wrong product";
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  *flops = 2.0 * size * size * size / seconds[kRounds / 2];
  return nullptr;
}

}  // namespace spillway::cuda
