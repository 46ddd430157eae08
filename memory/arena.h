// Arena: the one reservation of a tier, cut into named pieces at start and then frozen. A step takes leases and
// workspace, never the allocator.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "memory/tier.h"

namespace spillway {

class Arena {
 public:
  struct Piece {
    std::string what;
    uint64_t bytes = 0;
  };

  // Reserves `bytes` of device memory (Tier::device) or of host memory that the device copies from (Tier::host).
  // Throws Error(fit) when the reservation cannot be had.
  Arena(Device& device, Tier tier, uint64_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // The next `bytes`, aligned to 4096; lives as long as the arena. The plan sized the arena, so running over is our own
  // bug.
  std::span<std::byte> take(std::string what, uint64_t bytes);
  void freeze() { frozen_ = true; }

  Tier tier() const { return tier_; }
  uint64_t used() const { return used_; }
  uint64_t capacity() const { return bytes_; }
  std::span<std::byte> memory() const { return {base_, bytes_}; }
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  Device& device_;
  Tier tier_;
  std::byte* base_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t used_ = 0;
  bool frozen_ = false;
  std::vector<Piece> pieces_;
};

}  // namespace spillway
