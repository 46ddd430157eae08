// CudaModule: spillway_cuda.so, opened at run time. A missing module, driver or GPU is no error but a sentence, and the
// CPU is the device. Under a profiler, ranges (kernels/trace.h) are shown to it for as long as the module is open.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/module.h"
#include "kernels/trace.h"

namespace spillway {

class CudaModule {
 public:
  // path: the module's file; empty: beside the executable, then in ../lib/spillway from there.
  explicit CudaModule(const std::string& path = "");
  ~CudaModule();
  CudaModule(const CudaModule&) = delete;

  // Null where there is no module of the right version, even if it would know no device.
  const SpillwayCudaTable* table() const { return table_; }
  // Zero unless all of module, driver and GPU are there.
  int devices() const { return devices_; }
  // One line, without a full stop: the devices, or why there is none.
  const std::string& report() const { return report_; }

  // Where the constructor looks for `path`, in that order.
  static std::vector<std::string> candidates(const std::string& path);

 private:
  bool open(const std::string& path);
  bool find_table(const std::string& file);
  void count_devices();

  void* handle_ = nullptr;
  const SpillwayCudaTable* table_ = nullptr;
  int devices_ = 0;
  std::string report_;
  RangeViewer viewer_{};
};

}  // namespace spillway
