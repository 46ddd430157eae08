#include "kernels/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/host_block.h"
#include "kernels/cuda_ops.h"
#include "kernels/cuda_stream.h"

namespace spillway {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{256} << 20;      // of host memory pinned at once
constexpr uint64_t kLeastPieceBytes = uint64_t{16} << 20;  // tried before pinning is given up
constexpr uint64_t kPageBytes = 4096;
constexpr double kMiB = 1 << 20;

}  // namespace

CudaDevice::CudaDevice(std::shared_ptr<const void> owner, const SpillwayCudaTable& table, int device, bool graphs)
    : owner_(std::move(owner)), context_(table, device), ops_(make_cuda_ops(context_, graphs)) {
  const CudaDeviceInfo& info = context_.info();
  if (10 * info.major + info.minor < kLeastComputeCapability) {
    throw Error(ErrorKind::io,
                fmt::format("{}: compute capability {}.{} is less than {}.{}", context_.device_name(), info.major,
                            info.minor, kLeastComputeCapability / 10, kLeastComputeCapability % 10));
  }
}

CudaDevice::~CudaDevice() = default;

uint64_t CudaDevice::free_bytes() const {
  uint64_t bytes = 0;
  if (const CudaProblem problem = context_.ask(context_.table().free_bytes, &bytes)) {
    throw Error(ErrorKind::io, fmt::format("{}: free memory: {}", context_.device_name(), problem));
  }
  return bytes;
}

std::byte* CudaDevice::reserve(uint64_t bytes) {
  void* block = nullptr;
  if (const CudaProblem problem = context_.ask(context_.table().reserve, bytes, &block)) {
    throw Error(ErrorKind::fit, fmt::format("{}: a block of {} bytes was refused ({}); {} bytes are free now",
                                            context_.device_name(), bytes, problem, free_bytes()));
  }
  return static_cast<std::byte*>(block);
}

void CudaDevice::release(std::byte* block, uint64_t) { context_.ask(context_.table().release, block); }

std::byte* CudaDevice::reserve_host(uint64_t bytes) {
  std::byte* block = map_host_block(bytes);
  HostBlock about;
  uint64_t left = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  for (uint64_t piece = kPieceBytes; left > 0;) {
    piece = std::min(piece, left);
    std::byte* at = block + (bytes + kPageBytes - 1) / kPageBytes * kPageBytes - left;
    if (const CudaProblem problem = context_.ask(context_.table().pin_host, at, piece)) {
      about.why = problem;
      if (piece <= kLeastPieceBytes) break;
      piece = std::max(piece / 2 / kPageBytes * kPageBytes, kLeastPieceBytes);
      continue;
    }
    context_.add_pinned(at, piece);
    about.pinned.push_back(at);
    left -= piece;
  }
  about.pageable_bytes = left;
  about.pageable = block + (bytes + kPageBytes - 1) / kPageBytes * kPageBytes - left;
  if (left > 0) context_.add_pageable(about.pageable, left);
  const std::lock_guard lock(mutex_);
  host_blocks_[block] = std::move(about);
  return block;
}

void CudaDevice::release_host(std::byte* block, uint64_t bytes) {
  if (block == nullptr) return;
  HostBlock about;
  {
    const std::lock_guard lock(mutex_);
    const auto found = host_blocks_.find(block);
    SPILLWAY_CHECK(found != host_blocks_.end());
    about = std::move(found->second);
    host_blocks_.erase(found);
  }
  for (std::byte* piece : about.pinned) {
    context_.remove_pinned(piece);
    context_.ask(context_.table().unpin_host, piece);
  }
  if (about.pageable_bytes > 0) context_.remove_pageable(about.pageable);
  unmap_host_block(block, bytes);
}

std::string CudaDevice::host_memory_report() const {
  uint64_t pageable = 0;
  std::string why;
  const std::lock_guard lock(mutex_);
  for (const auto& [block, about] : host_blocks_) {
    pageable += about.pageable_bytes;
    if (about.pageable_bytes > 0) why = about.why;
  }
  if (pageable == 0) return {};
  return fmt::format(
      "host memory: {:.0f} MiB could not be pinned ({}): copies of them are slower, and hold the program up",
      static_cast<double>(pageable) / kMiB, why);
}

std::unique_ptr<Stream> CudaDevice::make_compute_stream(const std::string& name) {
  return std::make_unique<CudaDeviceStream>(context_, name, true);
}

std::unique_ptr<Stream> CudaDevice::make_copy_stream(const std::string& name, double bytes_per_second) {
  SPILLWAY_CHECK(bytes_per_second == 0);  // a GPU's link is real
  return std::make_unique<CudaDeviceStream>(context_, name, false);
}

}  // namespace spillway
