// What gather_perf and link_perf share: a GPU through the CUDA module's table alone, blocks of memory, timed work.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda_module.h"

namespace spillway {

inline void check_cuda(CudaProblem problem) {
  if (problem != nullptr) throw Error(ErrorKind::io, std::string("CUDA: ") + problem);
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// The device in use for the calling thread. Error(io) where it is not there.
class Gpu {
 public:
  Gpu(const std::string& module_path, int device) : module_(module_path) {
    if (device >= module_.devices()) throw Error(ErrorKind::io, module_.report());
    check_cuda(table().use_device(device));
    check_cuda(table().device_info(device, &about_));
  }
  const SpillwayCudaTable& table() const { return *module_.table(); }
  std::string name() const { return about_.name; }

 private:
  CudaModule module_;
  CudaDeviceInfo about_{};
};

// Memory of the device, or pinned memory of the host.
class GpuBlock {
 public:
  GpuBlock(const Gpu& gpu, uint64_t bytes, bool host) : table_(gpu.table()), host_(host) {
    void* block = nullptr;
    check_cuda(host ? table_.reserve_host(bytes, &block) : table_.reserve(bytes, &block));
    data_ = static_cast<std::byte*>(block);
  }
  ~GpuBlock() { host_ ? table_.release_host(data_) : table_.release(data_); }
  GpuBlock(const GpuBlock&) = delete;
  std::byte* data() const { return data_; }

 private:
  const SpillwayCudaTable& table_;
  bool host_;
  std::byte* data_ = nullptr;
};

class GpuStream {
 public:
  explicit GpuStream(const Gpu& gpu) : table_(gpu.table()) { check_cuda(table_.make_stream(&stream_)); }
  ~GpuStream() { table_.end_stream(stream_); }
  GpuStream(const GpuStream&) = delete;
  CudaStream get() const { return stream_; }
  void copy(std::byte* to, const std::byte* from, uint64_t bytes) const {
    check_cuda(table_.copy(stream_, to, from, bytes));
  }
  void synchronize() const { check_cuda(table_.synchronize(stream_)); }

 private:
  const SpillwayCudaTable& table_;
  CudaStream stream_ = nullptr;
};

// The amount that `work` does, a second.
inline double rate(double amount, const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return amount / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace spillway
