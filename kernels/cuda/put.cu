// A few bytes of the host as parameters of a kernel that writes them. Descriptors travel so, not by a copy: the copy
// engine is busy with megabytes of weights, and what queues behind them waits for them.
#include <cstring>

#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr uint64_t kMostWords = 960;  // parameters end at 4 KiB

template <int kWords>
struct Words {
  uint32_t word[kWords];
};

template <int kWords>
__global__ void __launch_bounds__(kThreads)
    write_words(uint32_t* destination, const __grid_constant__ Words<kWords> words, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) destination[i] = words.word[i];
}

template <int kWords>
cudaError_t launch_words(cudaStream_t stream, std::byte* destination, const std::byte* source, uint64_t words) {
  Words<kWords> parameters = {};
  std::memcpy(parameters.word, source, words * sizeof(uint32_t));
  return launch(write_words<kWords>, dim3(1), dim3(kThreads), 0, stream, reinterpret_cast<uint32_t*>(destination),
                parameters, static_cast<int>(words));
}

template <int kWords>
struct ScatteredWords {
  CudaWord word[kWords];
};

template <int kWords>
__global__ void __launch_bounds__(kThreads)
    scatter_words(uint32_t* destination, const __grid_constant__ ScatteredWords<kWords> words, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    destination[words.word[i].at] = words.word[i].word;
  }
}

template <int kWords>
cudaError_t launch_scattered(cudaStream_t stream, std::byte* destination, const CudaWord* words, int count) {
  ScatteredWords<kWords> parameters = {};
  std::memcpy(parameters.word, words, static_cast<size_t>(count) * sizeof(CudaWord));
  return launch(scatter_words<kWords>, dim3(1), dim3(kThreads), 0, stream, reinterpret_cast<uint32_t*>(destination),
                parameters, count);
}

}  // namespace

cudaError_t find_code() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, write_words<32>);
}

cudaError_t launch_put_words(cudaStream_t stream, std::byte* destination, const CudaWord* words, int count) {
  constexpr int kFewWords = 32;
  SPILLWAY_CHECK(count >= 0 && count <= kCudaMostScattered);
  if (count == 0) return cudaSuccess;
  return count <= kFewWords ? launch_scattered<kFewWords>(stream, destination, words, count)
                            : launch_scattered<kCudaMostScattered>(stream, destination, words, count);
}

cudaError_t launch_put(cudaStream_t stream, std::byte* destination, const std::byte* source, uint64_t bytes) {
  constexpr int kFewWords = 32;
  SPILLWAY_CHECK(bytes % sizeof(uint32_t) == 0 && reinterpret_cast<uintptr_t>(destination) % sizeof(uint32_t) == 0);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t left = (bytes - done) / sizeof(uint32_t);
    const uint64_t words = left < kMostWords ? left : kMostWords;
    const cudaError_t error = words <= kFewWords
                                  ? launch_words<kFewWords>(stream, destination + done, source + done, words)
                                  : launch_words<kMostWords>(stream, destination + done, source + done, words);
    if (error != cudaSuccess) return error;
    done += words * sizeof(uint32_t);
  }
  return cudaSuccess;
}

}  // namespace spillway::cuda
