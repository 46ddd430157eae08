// CudaDevice: a GPU, through the module's table. Device memory is its own; host memory is mapped as one block and
// pinned in pieces, so that a system that refuses to pin so much still runs, slower, and says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/cuda_context.h"
#include "kernels/device.h"

namespace spillway {

// The oldest GPUs that the kernels are built for.
inline constexpr int kLeastComputeCapability = 75;

class CudaDevice final : public Device {
 public:
  // owner: keeps the table alive; null where it is linked in. Throws Error(io) when the device cannot be used.
  // graphs: whether the layers of decode steps are replayed as CUDA graphs.
  CudaDevice(std::shared_ptr<const void> owner, const SpillwayCudaTable& table, int device, bool graphs = true);
  ~CudaDevice() override;

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return context_.device_name(); }
  int workers() const override { return 1; }
  uint64_t free_bytes() const override;
  uint64_t overhead_bytes() const override { return context_.taken_bytes(); }
  std::byte* reserve(uint64_t bytes) override;
  void release(std::byte* block, uint64_t bytes) override;
  std::byte* reserve_host(uint64_t bytes) override;
  void release_host(std::byte* block, uint64_t bytes) override;
  std::unique_ptr<Stream> make_compute_stream(const std::string& name) override;
  std::unique_ptr<Stream> make_copy_stream(const std::string& name, double bytes_per_second) override;
  Ops& ops() override { return *ops_; }
  bool host_addressable() const override { return false; }
  bool emulated() const override { return context_.info().emulated != 0; }
  std::string host_memory_report() const override;

 private:
  struct HostBlock {
    std::vector<std::byte*> pinned;  // its pieces
    std::byte* pageable = nullptr;   // the rest
    uint64_t pageable_bytes = 0;
    std::string why;  // the pieces that are not
  };

  std::shared_ptr<const void> owner_;
  CudaContext context_;
  std::unique_ptr<Ops> ops_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, HostBlock> host_blocks_;  // guarded by mutex_
};

}  // namespace spillway
